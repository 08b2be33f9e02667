use std::time::Duration;

use serde_json::json;

use super::*;

fn request(url: &str) -> Arc<RequestInfo> {
    Arc::new(RequestInfo::parse("GET", url, &Query::default()).unwrap())
}

fn user(name: &str, group: &str) -> Arc<User> {
    Arc::new(User { name: name.into(), groups: vec![group.into()], ..User::default() })
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

async fn enter(control: &FlowControl, user: &Arc<User>, until: Instant) -> Entry {
    control.enter(&request("/version"), user, &Query::default(), || None, until).await.unwrap()
}

/// One level with one schema for the users `a` and `b`.
fn one_level(seats: u32, queuing: &Value) -> FlowControl {
    let control = FlowControl::new(seats);
    let response =
        if queuing.is_null() { json!({"type": "Reject"}) } else { json!({"type": "Queue", "queuing": queuing}) };
    let level = json!({"metadata": {"name": "l", "uid": "level-uid"}, "spec": {"type": "Limited",
        "limited": {"nominalConcurrencyShares": 1000, "limitResponse": response}}});
    let subjects = json!([{"kind": "User", "user": {"name": "a"}}, {"kind": "User", "user": {"name": "b"}}]);
    let schema = json!({"metadata": {"name": "s", "uid": "schema-uid"}, "spec": {"matchingPrecedence": 50,
        "priorityLevelConfiguration": {"name": "l"}, "distinguisherMethod": {"type": "ByUser"},
        "rules": [{"subjects": subjects, "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}]}]}});
    control.configure(&[level], &[schema]);
    control
}

#[tokio::test]
async fn without_objects_everybody_is_caught() {
    let control = FlowControl::new(2);
    let entry = enter(&control, &user("x", "system:authenticated"), soon()).await;
    assert!(entry.schema.is_empty() && entry.pass.is_ok());
    let second = enter(&control, &user("x", "system:authenticated"), soon()).await;
    let third = enter(&control, &user("x", "system:authenticated"), soon()).await;
    assert_eq!((second.pass.is_ok(), third.pass.err()), (true, Some(1)));
    for _ in 0..5 {
        std::mem::forget(enter(&control, &user("root", "system:masters"), soon()).await);
    }
    drop(entry);
    assert!(enter(&control, &user("x", "system:unauthenticated"), soon()).await.pass.is_ok());
}

#[tokio::test]
async fn requests_are_classified_and_refused_beyond_the_limit() {
    let control = one_level(2, &Value::Null);
    let entry = enter(&control, &user("a", "g"), soon()).await;
    assert_eq!((entry.schema.as_bytes(), entry.level.as_bytes()), (&b"schema-uid"[..], &b"level-uid"[..]));
    let more = enter(&control, &user("b", "g"), soon()).await;
    assert!(entry.pass.is_ok() && more.pass.is_ok());
    assert!(enter(&control, &user("a", "g"), soon()).await.pass.is_err());
    drop(more);
    assert!(enter(&control, &user("a", "g"), soon()).await.pass.is_ok());
}

#[tokio::test]
async fn a_request_waits_for_its_turn_but_not_forever() {
    let control = Arc::new(one_level(1, &json!({"queues": 8, "handSize": 1, "queueLengthLimit": 2})));
    let a = user("a", "g");
    let held = enter(&control, &a, soon()).await;
    let wait = |limit: Duration| {
        let (control, a) = (Arc::clone(&control), Arc::clone(&a));
        tokio::spawn(async move { enter(&control, &a, Instant::now() + limit).await })
    };
    let (patient, hasty) = (wait(Duration::from_secs(1000)), wait(Duration::from_millis(100)));
    // Both run up to where they wait: there is one thread, and this is not it until they do.
    tokio::task::yield_now().await;
    assert!(enter(&control, &a, soon()).await.pass.is_err(), "the queue is full");
    assert!(hasty.await.unwrap().pass.is_err(), "it waited too long");
    let text = control.dump("/debug/api_priority_and_fairness/dump_requests", &Query::parse("includeRequestDetails=1"));
    let text = text.unwrap();
    assert_eq!(text.lines().filter(|line| line.starts_with("l,") && line.contains("/version")).count(), 2, "{text}");
    drop(held);
    assert!(patient.await.unwrap().pass.is_ok());
    let text = control.dump("/debug/api_priority_and_fairness/dump_priority_levels", &Query::default()).unwrap();
    let row: Vec<&str> = text.lines().find(|line| line.starts_with("l,")).unwrap().split(',').map(str::trim).collect();
    assert_eq!(row, ["l", "0", "true", "false", "0", "0", "2", "2", "0", "1"], "{text}");
}

#[tokio::test]
async fn idle_levels_lend_their_seats_and_undesired_ones_leave() {
    let control = FlowControl::new(100);
    let level = |name: &str, lendable: u32| {
        json!({"metadata": {"name": name}, "spec": {"type": "Limited", "limited": {"nominalConcurrencyShares": 100,
            "lendablePercent": lendable, "limitResponse": {"type": "Reject"}}}})
    };
    control.configure(&[level("idle", 100), level("busy", 0)], &[]);
    let busy = Arc::clone(&control.levels.lock()["busy"].queues);
    let ticket = || Ticket {
        flow: Arc::new(Flow::new("busy", "s")),
        number: 0,
        by: None,
        work: Work::ONE,
        info: request("/version"),
        user: user("u", "g"),
    };
    let held: Vec<_> = (0..40).map(|_| busy.arrive(ticket())).collect();
    control.adjust();
    let current = |name: &str| control.levels.lock()[name].current.unwrap();
    let nominal = control.levels.lock()["busy"].budget.nominal;
    assert!(
        current("busy") > nominal && current("idle") < nominal,
        "{} {} {nominal}",
        current("busy"),
        current("idle")
    );
    control.configure(&[level("idle", 100)], &[]);
    assert!(control.levels.lock().contains_key("busy"), "it has requests");
    drop(held);
    control.adjust();
    assert!(!control.levels.lock().contains_key("busy"));
}
