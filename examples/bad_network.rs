//! A bad network to put between `echo_client` and `echo_server`.
//!
//! ```text
//! cargo run --release --example echo_server -- --listen 127.0.0.1:4433
//! cargo run --release --example bad_network -- --server 127.0.0.1:4433 --cut-every 5 --loss 1
//! cargo run --release --example echo_client -- --connect ADDRESS --file PATH
//! ```
//!
//! You should see the address to give to the client, and a line for each cut.

#[path = "relay/mod.rs"]
mod relay;

use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

use relay::{Direction, Faults, Relay};

const USAGE: &str =
    "usage: bad_network --server ADDRESS:PORT [--cut-every SECONDS] [--loss PERCENT] [--delay MS]";

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut server = None::<SocketAddr>;
    let (mut cut_every, mut loss, mut delay) = (5.0, 0.0, 0);
    let mut args = std::env::args().skip(1);
    while let Some(flag) = args.next() {
        let value = args.next().ok_or(USAGE)?;
        match flag.as_str() {
            "--server" => server = Some(value.parse()?),
            "--cut-every" => cut_every = value.parse()?,
            "--loss" => loss = value.parse::<f64>()? / 100.0,
            "--delay" => delay = value.parse()?,
            _ => return Err(USAGE.into()),
        }
    }
    let relay = Relay::start(server.ok_or(USAGE)?, 1).await?;
    let delay = Duration::from_millis(delay);
    for direction in [Direction::ToServer, Direction::ToClient] {
        relay.set_faults(direction, Faults { loss, delay, ..Faults::default() });
    }
    println!("{}", relay.addr());
    loop {
        tokio::time::sleep(Duration::try_from_secs_f64(cut_every)?).await;
        relay.cut();
        println!("cut");
    }
}
