//! kube-scheduler: parse, set up logging, run.

use std::process::ExitCode;

use kube_scheduler::options::Options;

/// Every watch event is a tree of many small pieces, and pods come and go: the C library's allocator takes its time over them and
/// gives little back.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let options: Options = common::config::parse();
    common::telemetry::init(&options.logging);
    common::runtime::block_on_main(2, |shutdown| kube_scheduler::run(options, shutdown))
}
