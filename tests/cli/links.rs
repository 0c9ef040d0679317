//! Every way to say which agent is meant, and what is kept secret.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::fixture::{World, evermux, run, succeed};

#[test]
fn a_link_is_known_by_name_by_file_by_variable_and_by_itself() {
    let world = World::new(&[]);
    let link = world.link();
    succeed(&mut world.evermux(&["link", "add", "home"]), link.as_bytes());
    let file = format!("@{}", world.dir.join("link").display());
    let ping = |word: &str| {
        let args = ["ping", word, "-c", "1"];
        succeed(&mut evermux(&world.dir, &args), b"");
    };
    ["home", &file, &link].into_iter().for_each(ping);
    for word in ["home", &file, &link] {
        succeed(evermux(&world.dir, &["ping", "-c", "1"]).env("EVERMUX_LINK", word), b"");
    }
    // `-` is standard input.
    succeed(&mut evermux(&world.dir, &["ping", "-", "-c", "1"]), link.as_bytes());

    let text = |args: &[&str]| String::from_utf8(succeed(&mut world.evermux(args), b"")).unwrap();
    let secret = link.rsplit('/').next().unwrap();
    let list = text(&["link", "list"]);
    assert!(list.starts_with("home\t") && !list.contains(secret), "{list}");
    assert_eq!(text(&["link", "show", "home"]).trim(), link);
    let stored = world.dir.join("config/links/home");
    assert_eq!(fs::metadata(&stored).unwrap().permissions().mode() & 0o777, 0o600);

    let block = text(&["ssh-config", "home", "--target", "localhost:2222"]);
    assert!(block.contains("ProxyCommand evermux proxy home localhost:2222"), "{block}");
    assert!(block.contains("ServerAliveInterval 0"), "{block}");
    // A link itself would put its secret on command lines.
    assert_eq!(run(&mut world.evermux(&["ssh-config", &link]), b"").status.code(), Some(64));

    succeed(&mut world.evermux(&["link", "rm", "home"]), b"");
    assert_eq!(text(&["link", "list"]), "");
}

#[test]
fn the_agent_is_the_same_after_a_restart_and_its_link_too() {
    let mut world = World::new(&[]);
    let link = world.link();
    world.restart_agent();
    assert_eq!(world.link(), link);
}

#[test]
fn a_client_with_a_key_of_its_own_comes_in_if_it_is_listed() {
    let world = World::new(&[]);
    let key = succeed(&mut world.evermux(&["key"]), b"");
    let authorized = world.dir.join("authorized");
    fs::write(
        &authorized,
        format!("# clients\n{} laptop\n", String::from_utf8(key).unwrap().trim()),
    )
    .unwrap();
    let strict = World::new(&["--authorized", authorized.to_str().unwrap()]);
    // The link without its secret.
    let link = strict.link();
    let public = link.rsplit_once('/').unwrap().0;
    succeed(&mut world.evermux(&["ping", public, "-c", "1"]), b"");
    // Another key is nobody's.
    let stranger = run(&mut strict.evermux(&["ping", public, "-c", "1"]), b"");
    assert_eq!(stranger.status.code(), Some(77));
    let said = String::from_utf8_lossy(&stranger.stderr).into_owned();
    assert!(said.contains("--authorized"), "{said}");
}

#[test]
fn no_secret_is_ever_said() {
    let world = World::new(&["-vvv"]);
    let link = world.link();
    let secret = link.rsplit('/').next().unwrap();
    let output = run(&mut world.client("ping", &["-vvv", "-c", "1"]), b"");
    assert!(output.status.success());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("TRACE"), "{said}");
    assert!(!said.contains(&secret[..8]));
    // The agent has said its link once, on standard output, and nothing else of it.
    assert_eq!(world.agent.said().matches(&secret[..8]).count(), 1);
}
