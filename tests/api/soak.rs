//! Half a minute of bad weather over many pipes, from a seed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use evermux::{BackedReader, BackedWriter, Session};
use tokio::task::JoinSet;

use crate::fixture::{
    Dice, World, all_retired, attached_after, detached, pipe, quick, read_range, soon, until,
    write_range,
};
use crate::relay::{Direction, Faults};

const PIPES: u64 = 64;

/// How long the weather lasts. Set `EVERMUX_SOAK_SECONDS` for more.
const SECONDS: u64 = 22;

/// Bytes that have arrived, to see that the session gets on.
type Arrived = Arc<AtomicU64>;

/// Writes `stream` in pieces of random size until `end`; says how long it is.
async fn write(mut writer: BackedWriter, stream: u64, mut dice: Dice, end: Instant) -> u64 {
    let mut offset = 0;
    while Instant::now() < end {
        // Mostly keystrokes and messages, now and then a file.
        let len = match dice.pick(0..60) {
            0 => dice.pick(1..400_000),
            1..20 => dice.pick(1..5_000),
            _ => dice.pick(1..100),
        };
        write_range(&mut writer, stream, offset, offset + len).await.unwrap();
        offset += len;
        if dice.pick(0..50) == 0 {
            writer.wait_acked(dice.pick(0..offset + 1)).await.unwrap();
        }
        // Somebody thinks.
        tokio::time::sleep(Duration::from_millis(dice.pick(0..200))).await;
    }
    writer.finish();
    writer.wait_acked(offset).await.unwrap();
    offset
}

/// Reads `stream` to its end; says how long it was.
async fn read(mut reader: BackedReader, stream: u64, mut dice: Dice, arrived: Arrived) -> u64 {
    let mut offset = 0;
    loop {
        let upto = offset + dice.pick(1..100_000);
        let read = read_range(&mut reader, stream, offset, upto).await.unwrap();
        arrived.fetch_add(read - offset, Ordering::Relaxed);
        offset = read;
        if offset < upto {
            return offset;
        }
    }
}

/// One blow of the weather, and its end.
async fn blow(world: &World, client: &Session, dice: &mut Dice) {
    let epoch = client.stats().epoch;
    let faults = Faults {
        loss: 0.01,
        delay: Duration::from_millis(dice.pick(0..10)),
        jitter: Duration::from_millis(dice.pick(0..3)),
        reorder: 0.01,
        reorder_by: Duration::from_millis(5),
        duplicate: 0.005,
    };
    world.relay.set_faults(Direction::ToServer, faults);
    world.relay.set_faults(Direction::ToClient, faults);
    match dice.pick(0..8) {
        0 | 1 => world.relay.cut(),
        2 => {
            world.relay.freeze();
            detached(client).await;
            world.relay.thaw();
        }
        3 => {
            let way = if dice.pick(0..2) == 0 { Direction::ToServer } else { Direction::ToClient };
            world.relay.block(way, true);
            detached(client).await;
            world.relay.block(way, false);
        }
        4 => {
            world.relay.hold(Direction::ToServer);
            soon("a reconnect", client.reconnect()).await.unwrap();
            world.relay.release(Direction::ToServer);
            return;
        }
        // Too short to be noticed, most often.
        5 => {
            world.relay.freeze();
            tokio::time::sleep(Duration::from_millis(dice.pick(1..300))).await;
            world.relay.thaw();
            return;
        }
        _ => return world.relay.renumber(),
    }
    attached_after(client, epoch).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_a_minute_of_bad_weather_loses_and_doubles_nothing() {
    let from_env = |name| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let seed = from_env("EVERMUX_SOAK_SEED").unwrap_or_else(|| {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        since.map_or(0, |since| since.as_millis() as u64)
    });
    println!("EVERMUX_SOAK_SEED={seed}");
    let lasting = Duration::from_secs(from_env("EVERMUX_SOAK_SECONDS").unwrap_or(SECONDS));
    let mut dice = Dice(seed);
    let mut config = quick();
    config.replay_capacity(256 << 10).replay_budget(1 << 20).initial_streams(16);
    let world = World::with(config, |_| {}).await;
    let (client, server) = world.session().await;
    let end = Instant::now() + lasting;
    let arrived = Arrived::default();
    let (mut writes, mut reads) = (JoinSet::new(), JoinSet::new());
    for number in 0..PIPES {
        let (opener, acceptor) =
            if number % 2 == 0 { (&client, &server) } else { (&server, &client) };
        let (opened, accepted) = pipe(opener, acceptor).await;
        let (reader, writer) = opened.into_split();
        let (far_reader, far_writer) = accepted.into_split();
        let directions = [(writer, far_reader), (far_writer, reader)];
        for (stream, (writer, reader)) in (number * 2..).zip(directions) {
            let dices = [Dice(seed ^ (stream << 8)), Dice(seed ^ (stream << 8) ^ 1)];
            let [for_writer, for_reader] = dices;
            writes.spawn(async move { (stream, write(writer, stream, for_writer, end).await) });
            let read = read(reader, stream, for_reader, arrived.clone());
            reads.spawn(async move { (stream, read.await) });
        }
    }
    let mut blows = 0;
    while Instant::now() < end {
        blow(&world, &client, &mut dice).await;
        blows += 1;
        let goal = arrived.load(Ordering::Relaxed) + dice.pick(1..200_000);
        until("bytes after the storm", || {
            Instant::now() > end || arrived.load(Ordering::Relaxed) >= goal
        })
        .await;
    }
    world.relay.set_faults(Direction::ToServer, Faults::default());
    world.relay.set_faults(Direction::ToClient, Faults::default());
    let all = async |mut tasks: JoinSet<(u64, u64)>| -> Vec<(u64, u64)> {
        let mut ends = Vec::new();
        while let Some(end) = soon("the end of a stream", tasks.join_next()).await {
            ends.push(end.unwrap());
        }
        ends.sort();
        ends
    };
    let (written, read) = tokio::join!(all(writes), all(reads));
    assert_eq!(written, read);
    assert_eq!(written.len() as u64, PIPES * 2);
    all_retired(&client, &server).await;
    assert_eq!((client.stats().bytes_kept, server.stats().bytes_kept), (0, 0));
    assert_eq!(world.server.stats().bytes_shared, 0);
    let stats = client.stats();
    println!(
        "{blows} blows, {} resumes, {} bytes, {} replayed, {:?} without a link",
        stats.resumes,
        arrived.load(Ordering::Relaxed),
        stats.bytes_replayed + server.stats().bytes_replayed,
        stats.downtime
    );
    assert!(stats.resumes > 0);
}
