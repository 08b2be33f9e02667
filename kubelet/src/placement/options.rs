//! Options of the CPU and topology managers' policies.

use std::collections::BTreeMap;

use anyhow::{Context, bail};

type Given = BTreeMap<String, String>;

fn flag(name: &str, value: &str) -> anyhow::Result<bool> {
    common::config::parse_go_bool(value)
        .ok()
        .with_context(|| format!("bad value for option {name:?}: strconv.ParseBool: parsing {value:?}: invalid syntax"))
}

/// Of the topology manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Topology {
    pub(super) closest: bool,
    pub(super) max_nodes: usize,
}

const DEFAULT_MAX_NODES: usize = 8;

impl Topology {
    pub(super) fn parse(given: &Given) -> anyhow::Result<Self> {
        let mut options = Self { closest: false, max_nodes: DEFAULT_MAX_NODES };
        for (name, value) in given {
            match name.as_str() {
                "prefer-closest-numa-nodes" => options.closest = flag(name, value)?,
                "max-allowable-numa-nodes" => {
                    options.max_nodes = value
                        .parse()
                        .with_context(|| format!("unable to convert policy option to integer {name:?}"))?;
                    if options.max_nodes < DEFAULT_MAX_NODES {
                        bail!("the minimum value of {name:?} should not be less than {DEFAULT_MAX_NODES}");
                    }
                }
                _ => bail!("unknown Topology Manager Policy option: {name:?}"),
            }
        }
        Ok(options)
    }
}

/// Of the CPU manager's static policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cpu {
    /// Whole cores only.
    pub(crate) whole_cores: bool,
    pub(crate) across_numa: bool,
    pub(crate) by_socket: bool,
    pub(crate) across_cores: bool,
    /// Nobody but the system runs on reserved CPUs.
    pub(crate) strict_reservation: bool,
    pub(crate) by_cache: bool,
}

impl Cpu {
    /// `alpha` and `beta`: whether options of that maturity may be used.
    pub(crate) fn parse(given: &Given, alpha: bool, beta: bool) -> anyhow::Result<Self> {
        let mut options = Self::default();
        for (name, value) in given {
            let (target, allowed, stage) = match name.as_str() {
                "full-pcpus-only" => (&mut options.whole_cores, true, ""),
                "strict-cpu-reservation" => (&mut options.strict_reservation, true, ""),
                "prefer-align-cpus-by-uncorecache" => (&mut options.by_cache, true, ""),
                "distribute-cpus-across-numa" => (&mut options.across_numa, beta, "Beta"),
                "align-by-socket" => (&mut options.by_socket, alpha, "Alpha"),
                "distribute-cpus-across-cores" => (&mut options.across_cores, alpha, "Alpha"),
                _ => bail!("unknown CPU Manager Policy option: {name:?}"),
            };
            if !allowed {
                bail!("CPU Manager Policy {stage}-level Options not enabled, but option {name:?} provided");
            }
            *target = flag(name, value)?;
        }
        let names = [
            (options.whole_cores, options.across_cores, "full-pcpus-only", "distribute-cpus-across-cores"),
            (options.across_numa, options.across_cores, "distribute-cpus-across-numa", "distribute-cpus-across-cores"),
            (
                options.by_cache,
                options.across_cores,
                "prefer-align-cpus-by-uncorecache",
                "distribute-cpus-across-cores",
            ),
            (options.by_cache, options.across_numa, "prefer-align-cpus-by-uncorecache", "distribute-cpus-across-numa"),
        ];
        for (one, other, first, second) in names {
            if one && other {
                bail!("static policy options {first} and {second} can not be used at the same time");
            }
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(pairs: &[(&str, &str)]) -> Given {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn options_are_checked() {
        let cpu =
            |pairs: &[(&str, &str)], alpha| Cpu::parse(&given(pairs), alpha, true).map_err(|error| error.to_string());
        assert!(cpu(&[("full-pcpus-only", "true")], false).unwrap().whole_cores);
        for (pairs, alpha, want) in [
            (&[("x", "true")][..], false, "unknown CPU Manager Policy option: \"x\""),
            (&[("align-by-socket", "true")], false, "CPU Manager Policy Alpha-level Options not enabled"),
            (&[("full-pcpus-only", "maybe")], false, "bad value for option \"full-pcpus-only\""),
            (
                &[("full-pcpus-only", "true"), ("distribute-cpus-across-cores", "true")],
                true,
                "can not be used at the same time",
            ),
        ] {
            let error = cpu(pairs, alpha).unwrap_err();
            assert!(error.contains(want), "{error}");
        }
        let topology = Topology::parse(&given(&[("max-allowable-numa-nodes", "7")])).unwrap_err();
        assert!(topology.to_string().contains("should not be less than 8"), "{topology}");
    }
}
