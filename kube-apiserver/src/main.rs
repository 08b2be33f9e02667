//! The Kubernetes API server.

use std::process::ExitCode;

use kube_apiserver::options::Options;

/// Trees of objects are many small pieces: the C library's allocator takes a quarter of the time of a write.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let options: Options = common::config::parse();
    common::telemetry::init(&options.logging);
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    common::runtime::block_on_main(threads.max(2), |shutdown| kube_apiserver::run(options, shutdown))
}
