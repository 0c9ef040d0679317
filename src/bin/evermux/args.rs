//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use humantime::Duration as Span;

use crate::endpoint::{Dynamic, Endpoint, Forward};
use crate::log::Format;
use crate::policy::Pattern;

/// ssh, rsync, git, a database or any TCP service over a link that survives
/// sleep, roaming and outages.
#[derive(Debug, Parser)]
#[command(name = "evermux", after_help = crate::exit::CODES, max_term_width = 100)]
pub struct Cli {
    /// Only errors.
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// More messages; -vv and -vvv show what the library does.
    #[arg(short, long, global = true, action = clap::ArgAction::Count, conflicts_with = "quiet")]
    pub verbose: u8,
    /// The form of messages on standard error.
    #[arg(long, global = true, value_enum, default_value = "text", env = "EVERMUX_LOG_FORMAT")]
    pub log_format: Format,
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// The options about messages, for another `evermux` that says them for us.
    pub fn message_options(&self) -> Vec<&'static str> {
        let mut options = Vec::new();
        if self.quiet {
            options.push("--quiet");
        }
        options.extend(std::iter::repeat_n("--verbose", self.verbose.into()));
        if self.log_format == Format::Json {
            options.push("--log-format=json");
        }
        options
    }
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Let clients in, and connect them to services here.
    Agent(AgentArgs),
    /// Names for agents' links.
    #[command(subcommand)]
    Link(LinkCommand),
    /// Forward ports and sockets, in either direction.
    Forward(ForwardArgs),
    /// Join standard input and output to a service (ssh's ProxyCommand).
    Proxy(ProxyArgs),
    /// Run ssh over a link that it sets up by itself, as mosh does.
    Ssh(SshArgs),
    /// Print what to paste into ~/.ssh/config.
    SshConfig(SshConfigArgs),
    /// Show running agents and clients, with their sessions.
    Status(StatusArgs),
    /// End a session of an agent that runs here.
    Kill(KillArgs),
    /// Measure round trips to an agent.
    Ping(PingArgs),
    /// Find out why an agent cannot be used.
    Doctor(DoctorArgs),
    /// Print the fingerprint of your own key, for an agent's --authorized file.
    Key,
    /// Print a script that completes this command line.
    Completions {
        /// For which shell.
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Print the manual page.
    Man,
}

#[derive(Debug, Args)]
pub struct AgentArgs {
    /// The UDP address to listen on. Default [::]:4433; a free port with --once.
    #[arg(long, value_name = "ADDR", env = "EVERMUX_LISTEN")]
    pub listen: Option<std::net::SocketAddr>,
    /// Where the agent's key is kept. Default: the XDG state directory.
    #[arg(long, value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// The address in the printed link, where it is not that of this machine (port
    /// forward, NAT).
    #[arg(long, value_name = "HOST[:PORT]")]
    pub advertise: Option<String>,
    /// What clients may connect to: HOST:PORT (* for any), loopback, any, none, or the
    /// path of a socket. Default: loopback.
    #[arg(long, value_name = "TARGET")]
    pub allow: Vec<Pattern>,
    /// Where clients may have the agent listen (-R), in the same words. Default:
    /// loopback.
    #[arg(long, value_name = "ADDRESS")]
    pub allow_listen: Vec<Pattern>,
    /// More clients to let in: a file with a fingerprint a line, as `evermux key`
    /// prints it.
    #[arg(long, value_name = "FILE")]
    pub authorized: Option<PathBuf>,
    /// How long a session waits for a client that is away.
    #[arg(long, value_name = "DURATION", default_value = "24h")]
    pub linger: Span,
    /// After how long without a packet a client counts as away. Below 45s clients
    /// that are idle come and go.
    #[arg(long, value_name = "DURATION", default_value = "2m")]
    pub idle_timeout: Span,
    /// How many sessions there may be.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub max_sessions: u32,
    /// How many MiB all sessions may keep for replay.
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    pub replay_budget: u64,
    /// Serve one session with a key of its own, and end with it.
    #[arg(long)]
    pub once: bool,
    /// Go on in the background once the link is printed.
    #[arg(long, requires = "once")]
    pub background: bool,
}

/// How to reach an agent.
#[derive(Debug, Args)]
pub struct ReachArgs {
    /// Another address than that in the link (relay, port forward).
    #[arg(long, value_name = "HOST:PORT")]
    pub server: Option<String>,
    /// Wait until the agent can be reached, for so long if given. Default: one
    /// attempt of 10 seconds.
    #[arg(long, value_name = "DURATION", num_args = 0..=1, require_equals = true)]
    pub wait: Option<Option<Span>>,
    /// End when the agent could not be reached for so long. Default: never.
    #[arg(long, value_name = "DURATION")]
    pub give_up_after: Option<Span>,
}

impl ReachArgs {
    /// How long to try for the first connection, if more than once.
    pub fn patience(&self) -> Option<Duration> {
        match self.wait {
            None => None,
            Some(None) => Some(Duration::MAX),
            Some(Some(span)) => Some(span.into()),
        }
    }
}

#[derive(Debug, Subcommand)]
pub enum LinkCommand {
    /// Give a link a name. Without LINK it is read from standard input, so that no
    /// other user sees it.
    Add {
        name: String,
        /// A link, @FILE, or another name.
        link: Option<String>,
    },
    /// List names and addresses.
    List,
    /// Print a link: with its secret, so not where others look.
    Show { name: String },
    /// Forget a link.
    Rm { name: String },
}

#[derive(Debug, Args)]
pub struct ForwardArgs {
    /// A name, a link, or @FILE. Default: the variable EVERMUX_LINK.
    pub link: Option<String>,
    /// Listen here, connect from there: [BIND:]PORT:HOST:HOSTPORT, either end a socket's
    /// path.
    #[arg(short = 'L', value_name = "SPEC")]
    pub local: Vec<Forward>,
    /// Listen there, connect from here.
    #[arg(short = 'R', value_name = "SPEC")]
    pub reverse: Vec<Forward>,
    /// Listen here for SOCKS5 clients, connect from there: [BIND:]PORT.
    #[arg(short = 'D', value_name = "SPEC")]
    pub dynamic: Vec<Dynamic>,
    #[command(flatten)]
    pub reach: ReachArgs,
}

#[derive(Debug, Args)]
pub struct ProxyArgs {
    /// The link (a name, a link, @FILE; default EVERMUX_LINK), then HOST:PORT or the
    /// path of a socket.
    #[arg(value_name = "[LINK] TARGET", num_args = 1..=2, required = true)]
    pub words: Vec<String>,
    #[command(flatten)]
    pub reach: ReachArgs,
}

#[derive(Debug, Args)]
pub struct SshArgs {
    /// How evermux is called there.
    #[arg(long, value_name = "PATH", default_value = "evermux")]
    pub remote_program: String,
    /// Copy this program to ~/.local/bin there if there is none.
    #[arg(long)]
    pub upload: bool,
    /// The UDP address that the agent there listens on. Default: any free port.
    #[arg(long, value_name = "ADDR")]
    pub agent_listen: Option<std::net::SocketAddr>,
    /// Which ssh to run.
    #[arg(long, value_name = "PATH", default_value = "ssh")]
    pub ssh: PathBuf,
    #[command(flatten)]
    pub reach: ReachArgs,
    /// ssh's options, destination and command.
    #[arg(
        value_name = "SSH ARGUMENTS",
        trailing_var_arg = true,
        allow_hyphen_values = true,
        required = true
    )]
    pub words: Vec<OsString>,
}

#[derive(Debug, Args)]
pub struct SshConfigArgs {
    /// A name or @FILE.
    pub link: String,
    /// The name to give to ssh. Default: the link's name.
    #[arg(long, value_name = "NAME")]
    pub host: Option<String>,
    /// Where the ssh server is, seen from the agent.
    #[arg(long, value_name = "HOST:PORT", default_value = "localhost:22")]
    pub target: Endpoint,
}

#[derive(Debug, Args)]
pub struct StatusArgs {
    /// For programs.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct KillArgs {
    /// The session's id, or enough of its beginning.
    pub session: String,
}

#[derive(Debug, Args)]
pub struct PingArgs {
    /// A name, a link, or @FILE. Default: the variable EVERMUX_LINK.
    pub link: Option<String>,
    /// How many round trips.
    #[arg(short = 'c', long, default_value_t = 4)]
    pub count: u32,
    /// How long between them.
    #[arg(short = 'i', long, default_value = "1s")]
    pub interval: Span,
    #[command(flatten)]
    pub reach: ReachArgs,
}

#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// A name, a link, or @FILE. Default: the variable EVERMUX_LINK.
    pub link: Option<String>,
    #[command(flatten)]
    pub reach: ReachArgs,
}
