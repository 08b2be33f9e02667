//! The Kubernetes node agent.

use std::process::ExitCode;

fn main() -> ExitCode {
    let options: kubelet::Options = common::config::parse();
    common::telemetry::init(&options.logging);
    common::runtime::block_on_main(2, |shutdown| kubelet::run(options, shutdown))
}
