//! git over ssh: clone and push through a storm.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::fixture::{World, full, payload, program, succeed};
use crate::openssh::{Sshd, link_env};

fn git(world: &World, sshd: &Sshd, dir: &Path, args: &[&str]) -> String {
    let mut command = Command::new("git");
    command.args(["-c", "protocol.version=2", "-c", "gc.auto=0"]).args(args).current_dir(dir);
    link_env(world, &mut command);
    command.env("GIT_SSH_COMMAND", sshd.shell_command(world));
    // Nobody's configuration but the test's.
    command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
    for who in ["AUTHOR", "COMMITTER"] {
        command.env(format!("GIT_{who}_NAME"), "test");
        command.env(format!("GIT_{who}_EMAIL"), "test@example.com");
    }
    String::from_utf8(succeed(&mut command, b"")).unwrap().trim().to_owned()
}

#[test]
fn a_repository_is_cloned_and_pushed_to_through_a_storm() {
    let world = World::new(&[]);
    if program("git").is_none() {
        return;
    }
    let Some(sshd) = Sshd::start(&world.dir) else { return };
    let origin = world.dir.join("origin");
    fs::create_dir_all(&origin).unwrap();
    let here = |args: &[&str]| git(&world, &sshd, &origin, args);
    here(&["init", "-q", "-b", "main"]);
    here(&["config", "receive.denyCurrentBranch", "ignore"]);
    let bytes = payload(if full() { 64 << 20 } else { 4 << 20 });
    for (number, chunk) in bytes.chunks(bytes.len() / 20).enumerate() {
        fs::write(origin.join(format!("file-{number}")), chunk).unwrap();
    }
    here(&["add", "."]);
    here(&["commit", "-q", "-m", "first"]);

    let storm = world.storm();
    let url = format!("ssh://there{}", origin.display());
    git(&world, &sshd, world.dir.path(), &["clone", "-q", &url, "clone"]);
    let clone = world.dir.join("clone");
    let there = |args: &[&str]| git(&world, &sshd, &clone, args);
    assert_eq!(there(&["rev-parse", "HEAD"]), here(&["rev-parse", "HEAD"]));
    there(&["fsck", "--full"]);

    let more: Vec<u8> = bytes.iter().map(|byte| byte ^ 0x55).collect();
    fs::write(clone.join("more"), more).unwrap();
    there(&["add", "."]);
    there(&["commit", "-q", "-m", "second"]);
    there(&["push", "-q", "origin", "main"]);
    drop(storm);
    assert_eq!(here(&["rev-parse", "main"]), there(&["rev-parse", "HEAD"]));
    here(&["fsck", "--full"]);
}
