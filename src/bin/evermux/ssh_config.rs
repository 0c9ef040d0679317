//! `evermux ssh-config`: what to paste into `~/.ssh/config`.

use crate::args::SshConfigArgs;
use crate::exit::{Code, Failure};
use crate::known_links;

/// Prints the block.
pub fn run(args: &SshConfigArgs) -> Result<(), Failure> {
    if known_links::is_secret(&args.link) {
        return Err(Failure::new(
            Code::Usage,
            "the link's secret would be in the file and on command lines: \
             give the link a name first (`evermux link add NAME < FILE`)",
        ));
    }
    // That it exists.
    known_links::find(Some(&args.link))?;
    let host = args.host.as_deref().unwrap_or(args.link.trim_start_matches('@'));
    say!("{}", block(host, &args.link, &args.target.to_string()));
    Ok(())
}

fn block(host: &str, link: &str, target: &str) -> String {
    format!(
        "\
# ssh {host}: over evermux, so that it survives sleep, roaming and outages.
Host {host}
    ProxyCommand evermux proxy {link} {target}
    # ssh's own keep-alive runs inside of the stream, and would end a session whose
    # network is merely away.
    ServerAliveInterval 0
    # The kernel's would never see the network; it costs nothing to be sure.
    TCPKeepAlive no"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keep_alive_that_would_end_the_session_is_off() {
        let block = block("home", "home", "localhost:22");
        assert!(block.contains("\nHost home\n    ProxyCommand evermux proxy home localhost:22\n"));
        assert!(block.contains("\n    ServerAliveInterval 0\n"));
    }
}
