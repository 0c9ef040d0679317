//! Ends of pipes that meet a drop: 3, 4, 7, 17 and 18.

use std::time::Duration;

use evermux::{ReadError, WriteError};
use tokio::join;
use tokio::time::{sleep, timeout};

use super::actors::{End, has_seen_the_end};
use super::stage::{SIDES, Stage, at_every_moment};

#[test]
fn situation_03_an_end_whose_ack_is_lost_is_read_once_after_all_bytes() {
    for side in SIDES {
        let kinds = ["on its way", "seen, and its ack lost"];
        let case = format!("{side:?} finishes");
        at_every_moment(&case, 0.., &kinds, |world, moment| async move {
            let stage = Stage::new(&world).await;
            let (mut from, mut to) = stage.pipe(side).await;
            let entry = from.writer.entry.clone();
            let acts = async {
                let write = async {
                    from.writer.write(50_000).await.unwrap();
                    from.writer.finish();
                    from.writer.all_read().await.unwrap();
                };
                join!(write, async { to.reader.read_to_end().await.unwrap() });
            };
            let strike = async {
                stage.cut().await;
                kinds[usize::from(has_seen_the_end(&entry))]
            };
            let ((), kind) = stage.during(moment, acts, strike).await;
            assert_eq!(world.ledger.totals().ends, 1);

            // The other direction is as open as it was.
            let back = async {
                to.writer.write(5_000).await.unwrap();
                to.writer.finish();
            };
            join!(back, async { from.reader.read_to_end().await.unwrap() });
            stage.end().await;
            kind
        });
    }
}

#[test]
fn situation_04_a_pipe_that_one_side_has_forgotten_is_done_for_the_other_too() {
    for opener in SIDES {
        let kinds = ["both have it", "its opener has forgotten it"];
        let case = format!("a pipe of the {opener:?}'s");
        at_every_moment(&case, 0.., &kinds, |world, moment| async move {
            let stage = Stage::new(&world).await;
            let (mut one, mut two) = stage.pipe(opener).await;
            // A question and its answer: who asks is through first. No error, no
            // reset: what is done at both ends was done well.
            let acts = async {
                let answer = async {
                    two.reader.read_to_end().await.unwrap();
                    two.writer.write(3_000).await.unwrap();
                    two.writer.finish();
                    two.writer.all_read().await.unwrap();
                };
                join!(one.exchange(3_000), answer);
                stage.without_pipes().await;
            };
            let strike = async {
                stage.cut().await;
                let have = [opener, opener.peer()].map(|side| stage.session(side).pipes().len());
                kinds[usize::from(have == [0, 1])]
            };
            let ((), kind) = stage.during(moment, acts, strike).await;
            assert_eq!(world.ledger.totals().ends, 2);
            stage.end().await;
            kind
        });
    }
}

#[derive(Clone, Copy, Debug)]
enum Act {
    Finish,
    Reset,
    Stop,
    ReadAll,
}

/// What the writer of a direction does, what its reader does without having heard
/// of it, and what each of them is told: no error is the end of the stream, all of
/// it read.
#[derive(Debug)]
struct Crossing {
    writer: &'static [Act],
    reader: &'static [Act],
    writer_told: Option<WriteError>,
    reader_told: Option<ReadError>,
}

const RESET: u32 = 1;
const STOP: u32 = 2;

fn crossings() -> [Crossing; 8] {
    use Act::{Finish, ReadAll, Reset, Stop};
    let was_stopped = || Some(WriteError::Stopped { code: STOP });
    let gave_up = || Some(WriteError::Finished);
    let was_reset = || Some(ReadError::Reset { code: RESET });
    let stopped = || Some(ReadError::Stopped);
    let rows: [(&[Act], &[Act], _, _); 8] = [
        (&[Finish], &[], None, None),
        (&[Reset], &[], gave_up(), was_reset()),
        (&[], &[Stop], was_stopped(), stopped()),
        (&[Finish], &[Stop], was_stopped(), stopped()),
        (&[Reset], &[Stop], gave_up(), stopped()),
        (&[], &[ReadAll, Stop], was_stopped(), stopped()),
        // It has all the bytes: for the writer that is success.
        (&[Finish], &[ReadAll, Stop], None, stopped()),
        (&[Reset], &[ReadAll, Stop], gave_up(), stopped()),
    ];
    rows.map(|(writer, reader, writer_told, reader_told)| Crossing {
        writer,
        reader,
        writer_told,
        reader_told,
    })
}

/// Bytes that are there and nobody has read when the ends cross.
const UNREAD: u64 = 100;

impl Crossing {
    async fn begin(&self, from: &mut End, to: &mut End) {
        for act in self.reader.iter().chain(self.writer) {
            match act {
                Act::Finish => from.writer.finish(),
                Act::Reset => from.writer.reset(RESET),
                Act::Stop => to.reader.stop(STOP),
                Act::ReadAll => to.reader.read_to(UNREAD).await.unwrap(),
            }
        }
    }

    async fn end(&self, from: &mut End, to: &mut End) {
        assert_eq!(to.reader.read_to_end().await.err(), self.reader_told, "{self:?}");
        let told = match self.writer_told {
            Some(_) => Some(from.writer.error().await),
            None => from.writer.all_read().await.err(),
        };
        assert_eq!(told, self.writer_told, "{self:?}");
    }
}

#[test]
fn situation_07_ends_that_cross_at_the_drop_come_to_one_state_and_free_everything() {
    let kinds = ["none is done", "some are done"];
    at_every_moment("all crossings at once", 0.., &kinds, |world, moment| async move {
        let stage = Stage::new(&world).await;
        // Each crossing there with each crossing back, on a pipe of its own.
        let mut pipes = Vec::new();
        let crossings = crossings();
        for (number, there) in crossings.iter().enumerate() {
            for back in &crossings {
                let (mut one, mut two) = stage.pipe(SIDES[number % 2]).await;
                one.writer.write(UNREAD).await.unwrap();
                two.writer.write(UNREAD).await.unwrap();
                pipes.push((one, two, there, back));
            }
        }
        sleep(Duration::from_secs(1)).await;
        let acts = async {
            for (one, two, there, back) in &mut pipes {
                there.begin(one, two).await;
                back.begin(two, one).await;
            }
            for (one, two, there, back) in &mut pipes {
                there.end(one, two).await;
                back.end(two, one).await;
            }
            stage.without_pipes().await;
        };
        let strike = async {
            stage.cut().await;
            let all = crossings.len() * crossings.len();
            let some = SIDES.iter().any(|side| stage.session(*side).pipes().len() < all);
            kinds[usize::from(some)]
        };
        let ((), kind) = stage.during(moment, acts, strike).await;
        stage.end().await;
        kind
    });
}

#[test]
fn situation_17_what_the_server_drops_while_the_client_is_away_the_client_learns_at_the_resume() {
    // A server learns of a drop from the client that comes back, or before.
    for knows in [false, true] {
        let kinds = ["while the client is away", "after the resume"];
        let case = format!("the server knows: {knows}");
        // The resume is over after the first dozen.
        at_every_moment(&case, 0..25, &kinds, |world, moment| async move {
            let stage = Stage::new(&world).await;
            let mut pipes = Vec::new();
            for opener in SIDES {
                for gives_up in [[true, true], [true, false], [false, true]] {
                    let (mut ours, mut theirs) = stage.pipe_of(opener).await;
                    ours.writer.write(100).await.unwrap();
                    theirs.writer.write(100).await.unwrap();
                    ours.reader.read_to(50).await.unwrap();
                    let End { reader, writer } = theirs;
                    pipes.push((ours, Some(reader), Some(writer), gives_up));
                }
            }
            stage.cut().await;
            if knows {
                let _ = timeout(Duration::ZERO, stage.theirs.reconnect()).await;
            }
            let (mut clients, mut servers) = (Vec::new(), Vec::new());
            for (ours, reader, writer, gives_up) in pipes {
                clients.push((ours, gives_up));
                servers.push((reader, writer, gives_up));
            }
            let strike = async {
                for (reader, writer, [reads, writes]) in &mut servers {
                    reader.take_if(|_| *reads);
                    writer.take_if(|_| *writes);
                }
                kinds[usize::from(stage.resumes() > 0)]
            };
            let acts = async {
                for (ours, [reads, writes]) in &mut clients {
                    // What was not given up goes on, below.
                    if *writes {
                        let told = ours.reader.read_to_end().await;
                        assert_eq!(told, Err(ReadError::Reset { code: 0 }));
                    }
                    if *reads {
                        assert_eq!(ours.writer.error().await, WriteError::Stopped { code: 0 });
                    }
                }
            };
            let ((), kind) = stage.during(moment, acts, strike).await;
            for ((mut ours, _), (reader, writer, _)) in clients.into_iter().zip(servers) {
                if let Some(mut writer) = writer {
                    writer.finish();
                    ours.reader.read_to_end().await.unwrap();
                }
                if let Some(mut reader) = reader {
                    ours.writer.finish();
                    reader.read_to_end().await.unwrap();
                }
            }
            stage.end().await;
            kind
        });
    }
}

/// Offsets near 2^62 are beyond what a network can carry: those are reached in
/// `src/proto/tests/situations.rs`, under the same number.
#[test]
fn situation_18_an_end_at_offset_0_and_an_empty_pipe_survive_a_drop() {
    for opener in SIDES {
        let kinds = ["before the end was seen", "after the end was seen"];
        let case = format!("pipes of the {opener:?}'s");
        at_every_moment(&case, 0.., &kinds, |world, moment| async move {
            let stage = Stage::new(&world).await;
            let (mut ended, mut empty) = (stage.open(opener), stage.open(opener));
            ended.writer.write_nothing().await;
            ended.writer.finish();
            empty.writer.write_nothing().await;
            let entry = ended.writer.entry.clone();
            let acts = async {
                let mut other = stage.accept(opener.peer()).await;
                other.reader.read_to_end().await.unwrap();
                other.writer.write_nothing().await;
                other.writer.finish();
                ended.reader.read_to_end().await.unwrap();
                let empty = stage.accept(opener.peer()).await;
                drop((ended, other));
                stage
                    .until(|| SIDES.iter().all(|side| stage.session(*side).pipes().len() == 1))
                    .await;
                empty
            };
            let strike = async {
                stage.cut().await;
                kinds[usize::from(has_seen_the_end(&entry))]
            };
            let (mut other, kind) = stage.during(moment, acts, strike).await;
            // No end was invented for the empty one.
            let silence = timeout(Duration::from_secs(20), other.reader.read_to(1)).await;
            assert!(silence.is_err(), "{silence:?}");
            stage.cut().await;
            empty.writer.write(1).await.unwrap();
            other.reader.read_to(1).await.unwrap();
            join!(empty.exchange(0), other.exchange(0));
            stage.end().await;
            kind
        });
    }
}
