//! kube-proxy.

use std::process::ExitCode;

fn main() -> ExitCode {
    let options: kube_proxy::Options = common::config::parse();
    common::runtime::block_on_main(1, |shutdown| kube_proxy::run(options, shutdown))
}
