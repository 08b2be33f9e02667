//! Bad input ends the start; an absent server does not.

use kube_controller_manager::run;

use crate::{
    USER,
    neighbour::{refuses_bad_input, waits_for_the_server},
};

#[test]
fn bad_input_is_named() {
    refuses_bad_input(env!("CARGO_BIN_EXE_kube-controller-manager-tested"), &[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn becomes_ready_when_the_server_appears() {
    waits_for_the_server(run, USER, &[]).await;
}
