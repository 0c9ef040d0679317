//! The house rules that a compiler does not check: which file may name what.
//! Dependencies between modules go one way (down), each outside crate has one
//! door, and files stay short enough to have one purpose.

use std::fs;
use std::path::{Path, PathBuf};

/// A rule: files under one of `places` must not mention any of `words`.
struct Rule {
    places: &'static [&'static str],
    except: &'static [&'static str],
    words: &'static [&'static str],
    why: &'static str,
}

const VOCABULARY: &[&str] = &["wire/", "id.rs", "code.rs", "misbehaved.rs"];
const SHELL: &[&str] = &[
    "clock.rs",
    "config.rs",
    "control.rs",
    "driver/",
    "error.rs",
    "event.rs",
    "monitor.rs",
    "monitor/",
    "pipe/",
    "quic.rs",
    "quic/",
    "environment.rs",
    "simulation.rs",
    "session.rs",
    "session/",
    "stats.rs",
    "tls.rs",
    "tls/",
];

const PROGRAM: &[&str] = &["bin/"];

const RULES: &[Rule] = &[
    Rule {
        places: PROGRAM,
        except: &[],
        words: &[
            "quinn::",
            "quinn_proto::",
            "rustls::",
            "rcgen::",
            "aws_lc_rs::",
            "ring::",
            "evermux::simulation",
            "evermux::fuzzing",
            "#[path",
            "include!",
        ],
        why: "the program uses the library as anybody would: only `evermux::` names",
    },
    Rule {
        places: VOCABULARY,
        except: &[],
        words: &[
            "tokio",
            "quinn::",
            "rustls",
            "::now()",
            "Mutex",
            "async ",
            "crate::proto",
            "crate::pipe",
            "crate::session",
            "crate::driver",
            "crate::quic",
            "crate::tls",
        ],
        why: "floor 0 is vocabulary: no I/O, no clock, nothing above it",
    },
    Rule {
        places: &["proto/"],
        except: &[],
        words: &[
            "tokio",
            "quinn",
            "rustls",
            "::now()",
            "Mutex",
            "Arc<",
            "async ",
            ".await",
            "crate::pipe",
            "crate::session",
            "crate::driver",
            "crate::quic",
            "crate::tls",
            "crate::config",
            "crate::client",
            "crate::server",
            "random(",
            "tracing",
        ],
        why: "floor 1 is the sans-I/O core",
    },
    Rule {
        places: SHELL,
        except: &[],
        words: &["crate::client::", "crate::server::", "use crate::client;", "use crate::server;"],
        why: "floor 2 knows no role",
    },
    Rule {
        places: &["pipe/"],
        except: &[],
        words: &["crate::session::", "crate::driver", "crate::control"],
        why: "pipes know their host, not their session",
    },
    Rule {
        places: &["session.rs", "session/"],
        except: &[],
        words: &["crate::driver", "crate::control"],
        why: "the session's handles do not know their driver",
    },
    Rule {
        places: &["client/"],
        except: &[],
        words: &["crate::server"],
        why: "roles do not know each other",
    },
    Rule {
        places: &["server/"],
        except: &[],
        words: &["crate::client"],
        why: "roles do not know each other",
    },
    Rule {
        places: &[""],
        except: &["quic.rs", "quic/"],
        words: &["quinn::", "quinn_proto::", "use quinn"],
        why: "only quic names quinn",
    },
    Rule {
        places: &[""],
        except: &["tls.rs", "tls/", "quic.rs", "quic/listener.rs"],
        words: &["rustls::", "rcgen::"],
        why: "only tls names rustls and rcgen (quic names quinn's adapters of that name)",
    },
    Rule {
        places: &[""],
        except: &["crypto.rs", "tls.rs", "tls/"],
        words: &["aws_lc_rs::", "ring::"],
        why: "only crypto.rs and tls name a crypto provider",
    },
    Rule {
        places: &[""],
        except: &["monitor/"],
        words: &["netlink_sys::", "netlink_packet_core::", "netlink_packet_route::", "if_watch::"],
        why: "only the monitor's systems name their crates",
    },
    Rule {
        places: &[""],
        except: &["clock.rs", "bin/"],
        words: &["Instant::now()", "SystemTime::now()", "tokio::time::", "boot_time::"],
        why: "only clock.rs reads time",
    },
    Rule {
        places: &[""],
        except: &["driver/", "client/", "server/", "bin/"],
        words: &["tokio::spawn(", ".spawn("],
        why: "only the driver and the roles start tasks",
    },
];

/// Above this a file is looked at: does it still have one purpose?
const LINES_MAX: usize = 700;

#[test]
fn every_file_keeps_to_its_floor() {
    let mut broken = Vec::new();
    for (name, text) in sources() {
        let code = code_of(&text);
        for rule in RULES {
            let in_place = |place: &&&str| name.starts_with(**place);
            if !rule.places.iter().any(|place| in_place(&place))
                || rule.except.iter().any(|place| in_place(&place))
            {
                continue;
            }
            for word in rule.words.iter().filter(|word| mentions(&code, word)) {
                broken.push(format!("src/{name} mentions `{word}`: {}", rule.why));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

/// Within the program `crate::` is the program. What the library keeps to itself
/// cannot be named there, and has not been let out for it.
#[test]
fn the_library_has_nothing_for_the_program_only() {
    for (name, text) in sources().into_iter().filter(|(name, _)| !name.starts_with("bin/")) {
        let code = code_of(&text);
        assert!(!mentions(&code, "feature = \"cli\""), "src/{name} depends on the feature `cli`");
    }
}

#[test]
fn no_file_is_longer_than_one_purpose_needs() {
    let long: Vec<_> = sources()
        .into_iter()
        .filter(|(name, _)| !name.contains("tests/"))
        .map(|(name, text)| (code_of(&text).lines().count(), name))
        .filter(|(lines, _)| *lines > LINES_MAX)
        .collect();
    assert!(long.is_empty(), "longer than {LINES_MAX} lines: {long:?}");
}

#[test]
fn the_rules_would_notice() {
    let rule = RULES.iter().find(|rule| rule.why.contains("sans-I/O")).unwrap();
    let code = code_of("use std::fmt;\n// tokio in a comment\nuse tokio::sync::Notify;\n");
    assert!(rule.words.iter().any(|word| mentions(&code, word)));
    assert!(!mentions(&code_of("//! tokio\n"), "tokio"));
    assert!(!mentions(&code_of("fn f() {}\n#[cfg(test)]\nmod tests { use tokio; }"), "tokio"));
    assert!(!mentions("substring::x", "ring::"));
}

/// The code before the unit tests, without comments.
fn code_of(text: &str) -> String {
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or(text);
    let lines = code.lines().map(|line| line.split("//").next().unwrap_or(line));
    lines.collect::<Vec<_>>().join("\n")
}

/// Whether `code` has `word`, not as the end of a longer name.
fn mentions(code: &str, word: &str) -> bool {
    let starts_name = word.starts_with(|c: char| c.is_alphanumeric());
    code.match_indices(word).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        !(starts_name && before.is_some_and(|c| c.is_alphanumeric() || c == '_'))
    })
}

/// All source files, by their path below `src/`.
fn sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&root, &mut files);
    assert!(files.len() > 30, "the sources were found");
    let name = |path: &Path| {
        let below = path.strip_prefix(&root).expect("collected below it");
        below.to_string_lossy().replace('\\', "/")
    };
    files
        .iter()
        .map(|path| (name(path), fs::read_to_string(path).expect("a source file")))
        .filter(|(name, _)| !name.starts_with("proto/tests/"))
        .collect()
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}
