//! What shells and `man` want to know about the command line.

use std::io::{self, Write};

use crate::command;
use crate::exit::{Code, Failure};

/// Prints a completion script.
pub fn completions(shell: clap_complete::Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command(), "evermux", &mut script);
    print(&script)
}

/// Prints the manual page, all commands in one.
pub fn man() -> Result<(), Failure> {
    let mut page = Vec::new();
    let mut root = command();
    root.build();
    let rendered = (|| {
        clap_mangen::Man::new(root.clone()).render(&mut page)?;
        for sub in root.get_subcommands().filter(|sub| sub.get_name() != "help") {
            let heading = format!(".SH \"EVERMUX {}\"\n", sub.get_name().to_uppercase());
            page.write_all(heading.as_bytes())?;
            let part = clap_mangen::Man::new(sub.clone());
            part.render_description_section(&mut page)?;
            part.render_synopsis_section(&mut page)?;
            part.render_options_section(&mut page)?;
        }
        io::Result::Ok(())
    })();
    rendered.map_err(|error| Failure::new(Code::System, error.to_string()))?;
    print(&page)
}

fn print(bytes: &[u8]) -> Result<(), Failure> {
    let written = io::stdout().write_all(bytes);
    written.map_err(|error| Failure::new(Code::Io, format!("standard output: {error}")))
}
