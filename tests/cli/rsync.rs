//! rsync of a tree over ssh, through a storm: the same tree.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::fixture::{Process, World, full, payload, program, succeed};
use crate::openssh::{Sshd, link_env};

/// Every file below `root`, by its path.
fn files(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut dirs = vec![root.to_path_buf()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                dirs.push(entry.path());
            } else {
                let path = entry.path();
                let name = path.strip_prefix(root).unwrap().display().to_string();
                found.insert(name, fs::read(&path).unwrap());
            }
        }
    }
    found
}

/// So many files with so many bytes in all, of very different sizes.
fn plant(root: &Path, count: usize, len: usize) {
    let bytes = payload(len / 2);
    // Half of it in one file, the rest in files that grow.
    fs::create_dir_all(root).unwrap();
    fs::write(root.join("large"), &bytes).unwrap();
    let unit = len / count.pow(2);
    for number in 0..count {
        let dir = root.join(format!("dir-{}", number % 20));
        fs::create_dir_all(&dir).unwrap();
        let len = (number * unit).min(bytes.len());
        // From another place in each: rsync would notice files that are alike.
        let from = (number * 7919) % (bytes.len() - len).max(1);
        fs::write(dir.join(format!("file-{number}")), &bytes[from..from + len]).unwrap();
    }
}

fn rsync(world: &World, sshd: &Sshd, from: &Path, to: &Path) -> Command {
    let mut command = Command::new("rsync");
    // No look at sizes and times only: what is there is compared.
    command.args(["-a", "--checksum", "--rsh", &sshd.shell_command(world)]);
    command.arg(format!("{}/", from.display())).arg(format!("there:{}/", to.display()));
    link_env(world, &mut command);
    command
}

#[test]
fn a_tree_is_the_same_after_a_storm() {
    let world = World::new(&[]);
    if program("rsync").is_none() {
        return;
    }
    let Some(sshd) = Sshd::start(&world.dir) else { return };
    let (from, to) = (world.dir.join("tree"), world.dir.join("copy"));
    let (count, len) = if full() { (2000, 300 << 20) } else { (300, 12 << 20) };
    plant(&from, count, len);
    let storm = world.storm();
    // Bytes a second: slow enough that the storm strikes.
    succeed(rsync(&world, &sshd, &from, &to).arg("--bwlimit=6m"), b"");
    drop(storm);
    assert!(files(&from) == files(&to));
    assert!(world.relay.stats().to_server.dropped.cut > 0, "the storm has struck");
}

#[test]
fn a_long_outage_in_the_middle_is_a_pause() {
    let world = World::new(&[]);
    if program("rsync").is_none() {
        return;
    }
    let Some(sshd) = Sshd::start(&world.dir) else { return };
    let (from, to) = (world.dir.join("tree"), world.dir.join("copy"));
    let (count, len, outage) = if full() { (2000, 300 << 20, 60) } else { (50, 24 << 20, 4) };
    plant(&from, count, len);
    let mut running = Process::start(&mut rsync(&world, &sshd, &from, &to));
    // In the middle: some of it has come through, not all of it.
    let third = (len / 3) as u64;
    while world.relay.stats().to_server.bytes < third {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    world.relay.freeze();
    std::thread::sleep(std::time::Duration::from_secs(outage));
    running.wait_for("no contact with the agent");
    world.relay.thaw();
    assert_eq!(running.wait().code(), Some(0), "{}", running.said());
    running.wait_for("is back after");
    assert!(files(&from) == files(&to));
}
