//! cloud-controller-manager: parse, set up logging, run.

use std::process::ExitCode;

use cloud_controller_manager::Options;

fn main() -> ExitCode {
    let options: Options = common::config::parse();
    common::telemetry::init(&options.generic.logging);
    common::runtime::block_on_main(2, |shutdown| cloud_controller_manager::run(options, shutdown))
}
