//! `evermux link`: names for links.

use crate::args::LinkCommand;
use crate::exit::Failure;
use crate::known_links;
use crate::log::TOLD;

pub fn run(command: LinkCommand) -> Result<(), Failure> {
    match command {
        LinkCommand::Add { name, link } => {
            let link = match link {
                Some(word) => known_links::find(Some(&word))?,
                None => known_links::from_stdin()?,
            };
            let path = known_links::add(&name, &link)?;
            tracing::info!(target: TOLD, "{name} is {} ({})", link.address, path.display());
        }
        LinkCommand::List => {
            for name in known_links::names()? {
                match known_links::find(Some(&name)) {
                    Ok(link) => say!("{name}\t{}", link.to_public_text()),
                    Err(wrong) => tracing::warn!(target: TOLD, "{name}: {wrong}"),
                }
            }
        }
        LinkCommand::Show { name } => {
            say!("{}", *known_links::find(Some(&name))?.to_text());
        }
        LinkCommand::Rm { name } => known_links::remove(&name)?,
    }
    Ok(())
}
