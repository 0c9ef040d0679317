//! Real Linux hosts: a phone with two uplinks, two NAT routers, a server, each in a
//! network namespace of its own. What happens to such a phone happens here, while it is
//! idle, while somebody types, and while it transfers at full speed; every byte is
//! compared, and how long the user waits is measured.
//!
//! ```text
//! cargo test --test netns                    a choice of it, in a minute
//! cargo test --test netns -- NAT             what has NAT in its name, of all
//! EVERMUX_NETNS_REPEAT=20 cargo test --release --test netns
//!                                            all, 20 times, as long as in life
//! ```
//!
//! All takes an hour and more. What one has no time for today can be left for tomorrow:
//! with `EVERMUX_NETNS_RECORD=FILE` each trial is noted there as soon as it is through,
//! and what is there already is not played again, but in the table. Several names choose
//! what has any of them, as in `-- 'reboots, keys' NAT`. `EVERMUX_NETNS_LABS=4` allows so
//! many labs at a time.
//!
//! It needs Linux, root, iproute2 and nftables, and says so if it is skipped. It prints
//! a table.
//!
//! - `timetable` says which lab has the machine when, and `record` keeps what came of it;
//! - `lab` is the network, made by `script`s, `scenarios` what happens to it, `traffic` what goes on;
//! - `trial` plays one of each, with the processes in `hosts`;
//! - `roles` is what these do, and `line` makes the way long;
//! - `content` is what is sent, `moment` when, and `table` what came of it.
//!
//! No libtest: this program plays all roles, and what it says is always to be seen.

#[cfg(target_os = "linux")]
mod content;
#[cfg(target_os = "linux")]
mod hosts;
#[cfg(target_os = "linux")]
mod lab;
#[cfg(target_os = "linux")]
mod line;
#[cfg(target_os = "linux")]
mod moment;
#[cfg(target_os = "linux")]
mod program;
#[cfg(target_os = "linux")]
mod record;
#[cfg(target_os = "linux")]
mod roles;
#[cfg(target_os = "linux")]
mod scenarios;
#[cfg(target_os = "linux")]
mod script;
#[cfg(target_os = "linux")]
mod table;
#[cfg(target_os = "linux")]
mod timetable;
#[cfg(target_os = "linux")]
mod traffic;
#[cfg(target_os = "linux")]
mod trial;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    program::main()
}

#[cfg(not(target_os = "linux"))]
fn main() {
    println!("netns: skipped: network namespaces are Linux's");
}
