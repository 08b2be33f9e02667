//! kube-scheduler: parse, set up logging, run.

use std::process::ExitCode;

use kube_scheduler::options::Options;

fn main() -> ExitCode {
    let options: Options = common::config::parse();
    common::telemetry::init(&options.logging);
    common::runtime::block_on_main(2, |shutdown| kube_scheduler::run(options, shutdown))
}
