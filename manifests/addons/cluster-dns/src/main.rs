//! cluster-dns.

use std::process::ExitCode;

fn main() -> ExitCode {
    let options: cluster_dns::Options = common::config::parse();
    common::runtime::block_on_main(1, |shutdown| cluster_dns::run(options, shutdown))
}
