//! clap, made to behave as cobra and pflag do.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    sync::{PoisonError, RwLock},
};

use clap::{
    ArgAction, ArgMatches, Command, Parser,
    error::{ContextKind, ContextValue, ErrorKind},
};

use super::{parse_go_bool, version};

/// Why a command line does not lead to a running daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exit {
    /// Help or version: print to stdout, exit 0.
    Print(String),
    /// Print to stderr, exit 1.
    Error(String),
}

/// Parses the process's command line; prints and exits when there is nothing to run.
pub fn parse<T: Parser>() -> T {
    match try_parse_from(std::env::args_os()) {
        Ok(options) => options,
        Err(Exit::Print(text)) => {
            println!("{text}");
            std::process::exit(0)
        }
        Err(Exit::Error(text)) => {
            eprintln!("Error: {text}");
            std::process::exit(1)
        }
    }
}

/// As [`parse`], from any arguments (the first is the program's name) and without exiting.
pub fn try_parse_from<T: Parser>(args: impl IntoIterator<Item = impl Into<OsString>>) -> Result<T, Exit> {
    let args: Vec<OsString> = args.into_iter().map(Into::into).map(normalize).collect();
    if let Some(text) = wants_version(&args) {
        return Err(Exit::Print(text));
    }
    let name = program_name(&args);
    let mut command = pflag_like(T::command());
    let matches = command.try_get_matches_from_mut(args).map_err(|error| explain(&name, &error))?;
    *COMMAND_LINE.write().unwrap_or_else(PoisonError::into_inner) = values(&command, &matches);
    T::from_arg_matches(&matches).map_err(|error| explain(&name, &error))
}

/// The command line that this process was started with, defaults included.
static COMMAND_LINE: RwLock<BTreeMap<String, String>> = RwLock::new(BTreeMap::new());

/// Every flag with its value, as pflag prints them: `/flagz`. Of the last command line that was parsed.
#[must_use]
pub fn flag_values() -> BTreeMap<String, String> {
    COMMAND_LINE.read().unwrap_or_else(PoisonError::into_inner).clone()
}

fn values(command: &Command, matches: &ArgMatches) -> BTreeMap<String, String> {
    let flags = command.get_arguments().filter(|arg| !matches!(arg.get_action(), ArgAction::Help | ArgAction::Version));
    flags
        .filter_map(|arg| {
            let name = arg.get_long()?;
            let raw = matches.get_raw(arg.get_id().as_str()).into_iter().flatten();
            let all: Vec<_> = raw.map(|value| value.to_string_lossy()).collect();
            let is_list = arg.get_value_delimiter().is_some() || matches!(arg.get_action(), ArgAction::Append);
            let text = all.join(",");
            Some((name.to_owned(), if is_list { format!("[{text}]") } else { text }))
        })
        .collect()
}

fn program_name(args: &[OsString]) -> String {
    let path = args.first().map(std::path::PathBuf::from).unwrap_or_default();
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// `--some_flag` is `--some-flag`.
fn normalize(arg: OsString) -> OsString {
    let Some(text) = arg.to_str() else { return arg };
    let Some(flag) = text.strip_prefix("--") else { return arg };
    let (name, value) = flag.split_at(flag.find('=').unwrap_or(flag.len()));
    if name.contains('_') { format!("--{}{value}", name.replace('_', "-")).into() } else { arg }
}

fn wants_version(args: &[OsString]) -> Option<String> {
    let flags = args.iter().skip(1).filter_map(|arg| arg.to_str()).take_while(|arg| *arg != "--");
    let value =
        flags.filter_map(|arg| arg.strip_prefix("--version")).find(|rest| rest.is_empty() || rest.starts_with('='))?;
    match value {
        "=raw" => Some(format!("{:?}", version::info())),
        "=false" => None,
        _ => Some(format!("Kubernetes {}", version::GIT_VERSION)),
    }
}

/// Booleans take an optional `=value`; the last of a repeated flag wins.
fn pflag_like(command: Command) -> Command {
    command.args_override_self(true).mut_args(|arg| {
        let is_bool = arg.get_value_parser().type_id() == std::any::TypeId::of::<bool>();
        let settable = matches!(arg.get_action(), ArgAction::SetTrue | ArgAction::SetFalse | ArgAction::Set);
        if arg.is_positional() || !is_bool || !settable {
            return arg;
        }
        let default_false = !matches!(arg.get_action(), ArgAction::Set);
        let arg = arg
            .action(ArgAction::Set)
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
            .value_parser(parse_go_bool);
        if default_false { arg.default_value("false") } else { arg }
    })
}

fn context(error: &clap::Error, kind: ContextKind) -> Option<String> {
    match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        Some(ContextValue::Strings(texts)) => Some(texts.join(" ")),
        _ => None,
    }
}

/// The bare `--flag` of clap's `--flag <VALUE>` / `--flag[=<VALUE>]`.
fn bare(flag: &str) -> &str {
    flag.split([' ', '=', '[']).next().unwrap_or(flag)
}

fn explain(program: &str, error: &clap::Error) -> Exit {
    let flag = context(error, ContextKind::InvalidArg).unwrap_or_default();
    let value = context(error, ContextKind::InvalidValue).unwrap_or_default();
    Exit::Error(match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::DisplayVersion => {
            return Exit::Print(error.to_string().trim_end().to_owned());
        }
        ErrorKind::UnknownArgument => match flag.strip_prefix('-') {
            Some(long) if long.starts_with('-') => format!("unknown flag: {}", bare(&flag)),
            Some(short) => format!("unknown shorthand flag: '{}' in {flag}", short.chars().next().unwrap_or('-')),
            None => format!("{program:?} does not take any arguments, got [{flag:?}]"),
        },
        ErrorKind::InvalidValue if value.is_empty() => format!("flag needs an argument: {}", bare(&flag)),
        ErrorKind::InvalidValue => {
            let valid = context(error, ContextKind::ValidValue).unwrap_or_default();
            format!("invalid argument {value:?} for {:?} flag: must be one of: {valid}", bare(&flag))
        }
        // (A parser of several flags, that names its flag itself, gives no context.)
        ErrorKind::ValueValidation if !flag.is_empty() => {
            let reason =
                std::error::Error::source(error).map(ToString::to_string).unwrap_or_else(|| "invalid value".into());
            format!("invalid argument {value:?} for {:?} flag: {reason}", bare(&flag))
        }
        ErrorKind::MissingRequiredArgument => {
            let flags: Vec<_> = flag.split_whitespace().filter(|word| word.starts_with("--")).collect();
            let names: Vec<_> = flags.iter().map(|flag| format!("{:?}", bare(flag).trim_start_matches('-'))).collect();
            format!("required flag(s) {} not set", names.join(", "))
        }
        _ => error.to_string().trim_end().trim_start_matches("error: ").to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::flags;

    #[derive(Parser, Debug)]
    #[command(name = "kube-test", mut_arg("kube_api_qps", |arg| arg.default_value("20")))]
    struct Options {
        #[command(flatten)]
        logging: flags::Logging,
        #[command(flatten)]
        serving: flags::Serving,
        #[command(flatten)]
        client: flags::ClientConnection,
        #[command(flatten)]
        election: flags::LeaderElection,
        #[command(flatten)]
        gates: flags::FeatureGateFlag,
        #[arg(long)]
        cleanup: bool,
    }

    fn run(args: &str) -> Result<Options, Exit> {
        try_parse_from(["kube-test"].into_iter().chain(args.split_whitespace()))
    }

    #[test]
    fn defaults_are_upstreams() {
        let options = run("").unwrap();
        assert!(options.election.leader_elect && !options.cleanup && options.serving.profiling);
        assert_eq!(options.serving.authorization_always_allow_paths, ["/healthz", "/readyz", "/livez"]);
        assert_eq!(options.election.leader_elect_lease_duration, Duration::from_secs(15));
        assert_eq!(options.client.kube_api_qps, 20.0);
    }

    #[test]
    fn booleans_and_verbosity_as_pflag() {
        let options =
            run("--leader-elect=false --cleanup -v=4 --feature_gates=A=true,B=false --kube-api-qps=-1").unwrap();
        assert!(!options.election.leader_elect && options.cleanup);
        assert_eq!((options.logging.v, options.gates.feature_gates.len()), (4, 2));
        assert_eq!(options.client.kube_api_qps, -1.0);
        assert!(!run("--cleanup --cleanup=false").unwrap().cleanup);
        assert_eq!(run("-v 2 --v=3").unwrap().logging.v, 3);
        assert_eq!(run("--secure-port 0").unwrap().serving.secure_port, Some(0));
    }

    #[test]
    fn errors_read_as_cobras() {
        for (args, want) in [
            ("--foo", "unknown flag: --foo"),
            ("--foo=1", "unknown flag: --foo"),
            ("-z", "unknown shorthand flag: 'z' in -z"),
            ("bar", "\"kube-test\" does not take any arguments, got [\"bar\"]"),
            ("--secure-port", "flag needs an argument: --secure-port"),
        ] {
            assert_eq!(run(args).unwrap_err(), Exit::Error(want.into()), "{args}");
        }
        let Exit::Error(text) = run("--leader-elect=maybe").unwrap_err() else { panic!("not an error") };
        assert_eq!(
            text,
            "invalid argument \"maybe\" for \"--leader-elect\" flag: strconv.ParseBool: parsing \"maybe\": invalid syntax"
        );
        assert_eq!(run("--version").unwrap_err(), Exit::Print("Kubernetes v1.36.1".into()));
    }
}
