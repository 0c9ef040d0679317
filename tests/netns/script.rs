//! What `ip`, `tc` and `nft` are told.

use std::process::{Command, Stdio};

use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command as TokioCommand};

use crate::moment::Moment;

/// Something that a tool is about to do: the tool has been started and waits, so that
/// little time passes when it is told to.
#[must_use = "it waits to be run"]
pub struct Script {
    tool: String,
    child: Child,
    text: String,
}

impl Script {
    /// Starts `tool`, which reads `text` from its standard input once it runs.
    pub fn start(tool: &str, text: &str) -> Self {
        let mut words = tool.split(' ');
        let child = TokioCommand::new(words.next().expect("a program"))
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the tools were checked for");
        Self { tool: tool.to_owned(), child, text: format!("{text}\n") }
    }

    /// Does it; the moment before.
    pub async fn run(mut self) -> Moment {
        let mut stdin = self.child.stdin.take().expect("piped");
        let begun = Moment::now();
        let written = stdin.write_all(self.text.as_bytes()).await;
        drop(stdin);
        let output = self.child.wait_with_output().await.expect("it ends");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(written.is_ok() && output.status.success(), "{}: {said}\n{}", self.tool, self.text);
        begun
    }
}

/// Runs `ip`.
pub fn ip(args: &[&str]) -> Result<(), String> {
    run("ip", args)
}

/// Runs a program; what it complains of, if it does.
pub fn run(program: &str, args: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(args).stdin(Stdio::null()).output();
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!(
            "{program} {}: {}",
            args.join(" "),
            String::from_utf8_lossy(&output.stderr)
        )),
        Err(error) => Err(format!("{program}: {error}")),
    }
}
