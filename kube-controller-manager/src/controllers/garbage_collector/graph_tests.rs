//! The graph against upstream's cases.

use super::*;

fn id(kind: &str, namespace: &str, name: &str, uid: &str) -> Identity {
    let a = |s: &str| Arc::<str>::from(s);
    Identity { kind: a(kind), api_version: a("v1"), namespace: a(namespace), name: a(name), uid: a(uid) }
}

fn owner(kind: &str, name: &str, uid: &str, blocks: bool) -> Owner {
    let a = |s: &str| Arc::<str>::from(s);
    Owner { kind: a(kind), api_version: a("v1"), name: a(name), uid: a(uid), blocks }
}

fn plain(identity: Identity, owners: &[Owner]) -> Observed {
    Observed { identity, owners: owners.into(), deleting: false, foreground: false, orphan: false }
}

fn names(list: &[Uid]) -> Vec<&str> {
    list.iter().map(|u| &**u).collect()
}

#[test]
fn owner_first_then_dependents_then_gone() {
    let mut g = Graph::default();
    assert_eq!(g.observe(plain(id("RS", "ns", "rs", "1"), &[])), Effects::default());
    assert_eq!(g.observe(plain(id("Pod", "ns", "p", "2"), &[owner("RS", "rs", "1", true)])), Effects::default());
    let e = g.remove("1");
    assert_eq!(names(&e.delete), ["2"]);
    assert!(g.absent().contains(&id("RS", "ns", "rs", "1")));
    assert_eq!(g.remove("2"), Effects::default());
    assert_eq!(g.size(), (0, 0));
}

#[test]
fn a_dependent_first_makes_a_virtual_owner_that_is_asked_for() {
    let mut g = Graph::default();
    let e = g.observe(plain(id("Pod", "ns", "p", "2"), &[owner("RS", "rs", "1", true)]));
    assert_eq!(names(&e.delete), ["1"]);
    assert_eq!(g.size(), (2, 1));
    // It is there: nothing happens.
    assert_eq!(g.observe(plain(id("RS", "ns", "rs", "1"), &[])), Effects::default());
    assert_eq!(g.size(), (2, 0));
    // Another is not: its dependents are looked at.
    g.observe(plain(id("Pod", "ns", "q", "3"), &[owner("RS", "gone", "9", true)]));
    let e = g.verified_absent(&id("RS", "ns", "gone", "9"));
    assert_eq!(names(&e.delete), ["3"]);
    assert!(g.absent().contains(&id("RS", "ns", "gone", "9")));
}

#[test]
fn dependents_that_disagree_on_the_owner() {
    let mut g = Graph::default();
    g.observe(plain(id("Pod", "ns1", "a", "2"), &[owner("RS", "rs", "1", false)]));
    // The second one names the same UID from another namespace: doubtful itself.
    let e = g.observe(plain(id("Pod", "ns2", "b", "3"), &[owner("RS", "rs", "1", false)]));
    assert_eq!(names(&e.delete), ["3"]);
    // ns1's owner does not exist: only ns1's dependent is affected, and ns2's claim is examined next.
    let e = g.verified_absent(&id("RS", "ns1", "rs", "1"));
    assert_eq!((names(&e.delete), names(&e.delete_later)), (vec!["2"], vec!["1"]));
    assert_eq!(g.get("1").unwrap().identity, id("RS", "ns2", "rs", "1"));
    // It exists in ns2: observed, the stranger is reported.
    let e = g.observe(plain(id("RS", "ns2", "rs", "1"), &[]));
    assert_eq!(e, Effects::default());
    // A virtual deletion of another identity never removes the observed node.
    let e = g.verified_absent(&id("RS", "ns1", "rs", "1"));
    assert_eq!(names(&e.delete), ["2"]);
    assert!(g.get("1").is_some());
}

#[test]
fn a_reference_across_namespaces_is_reported() {
    let mut g = Graph::default();
    g.observe(plain(id("CM", "ns1", "o", "1"), &[]));
    let e = g.observe(plain(id("CM", "ns2", "d", "2"), &[owner("CM", "o", "1", false)]));
    assert_eq!(names(&e.delete), ["2"]);
    assert_eq!(e.wrong_namespace, [(id("CM", "ns2", "d", "2"), id("CM", "ns2", "o", "1"))]);
    // Cluster-scoped owners are for everyone.
    g.observe(plain(id("Node", "", "n", "5"), &[]));
    assert_eq!(g.observe(plain(id("CM", "ns2", "e", "6"), &[owner("Node", "n", "5", false)])), Effects::default());
    // The child first: noticed when the parent shows up elsewhere.
    g.observe(plain(id("CM", "ns3", "f", "8"), &[owner("CM", "p", "7", false)]));
    let e = g.observe(plain(id("CM", "ns4", "p", "7"), &[]));
    assert_eq!((names(&e.delete), e.wrong_namespace.len()), (vec!["8"], 1));
}

#[test]
fn foreground_waits_for_blocking_dependents_only() {
    let mut g = Graph::default();
    g.observe(plain(id("D", "ns", "d", "1"), &[]));
    g.observe(plain(id("RS", "ns", "x", "2"), &[owner("D", "d", "1", true)]));
    g.observe(plain(id("RS", "ns", "y", "3"), &[owner("D", "d", "1", false)]));
    let mut dying = plain(id("D", "ns", "d", "1"), &[]);
    (dying.deleting, dying.foreground) = (true, true);
    let e = g.observe(dying.clone());
    assert_eq!(names(&e.delete), ["2", "3", "1"]);
    assert_eq!(g.observe(dying), Effects::default(), "only the beginning counts");
    assert_eq!(g.blocking_dependents("1").len(), 1);
    // A dependent that stops blocking frees its owner.
    let e = g.observe(plain(id("RS", "ns", "x", "2"), &[owner("D", "d", "1", false)]));
    assert_eq!(names(&e.delete), ["1"]);
    assert!(g.blocking_dependents("1").is_empty());
    // So does one that goes.
    assert_eq!(names(&g.remove("3").delete), ["1"]);
}

#[test]
fn orphaning_begins_once() {
    let mut g = Graph::default();
    g.observe(plain(id("D", "ns", "d", "1"), &[]));
    let mut dying = plain(id("D", "ns", "d", "1"), &[]);
    (dying.deleting, dying.orphan) = (true, true);
    assert_eq!(names(&g.observe(dying.clone()).orphan), ["1"]);
    assert_eq!(g.observe(dying), Effects::default());
}

#[test]
fn a_created_and_deleted_object_seen_at_once() {
    let mut g = Graph::default();
    let mut dying = plain(id("D", "ns", "d", "1"), &[]);
    (dying.deleting, dying.foreground) = (true, true);
    assert_eq!(names(&g.observe(dying).delete), ["1"]);
    assert!(g.get("1").unwrap().deleting_dependents);
}

#[test]
fn unreferenced_virtual_owners_do_not_stay() {
    let mut g = Graph::default();
    g.observe(plain(id("Pod", "ns", "p", "2"), &[owner("RS", "rs", "1", true)]));
    g.remove("2");
    assert_eq!(g.size(), (0, 0));
}
