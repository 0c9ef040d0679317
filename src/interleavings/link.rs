//! Both ends of a session, with what their drivers do in one task: the steps of
//! `driver/link.rs` and `driver/resume.rs`, without timers and proofs. Drivers and
//! pumps, the application's threads and the network interleave.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use shuttle::future::JoinHandle;
use shuttle::rand::Rng;
use shuttle::thread;
use tokio::sync::Notify;

use crate::environment::Environment;
use crate::error::SessionError;
use crate::id::{Epoch, HolderId, PipeId, SessionId, Side};
use crate::misbehaved::PeerMisbehaved;
use crate::pipe::{PipeShared, Wants};
use crate::proto::{Accepted, Located, Outgoing, PeerTable, SessionCore};
use crate::quic::{Connection, RecvStream, SendStream};
use crate::session::{Session, SessionShared};
use crate::wire::{Frame, Header, Parameters, SECRET_LEN};

/// Bytes that a stream of the first connection holds: little more than a header.
const WINDOW: usize = 8;

/// What the scenario does to the link.
#[derive(Default)]
pub(super) struct Network {
    cut: Notify,
    end: Notify,
    over: Notify,
}

impl Network {
    /// Loses the connection so many times, each at any point from now on.
    pub(super) fn cut(&self, times: usize) {
        for _ in 0..times {
            wait_a_while();
            self.cut.notify_one();
        }
    }

    /// Loses the connection at once.
    pub(super) fn cut_now(&self) {
        self.cut.notify_one();
    }

    /// The client's session ends at any point from now on; the server's with it.
    pub(super) fn end(&self) {
        wait_a_while();
        self.end.notify_one();
    }

    /// The application is through: the drivers stop when no pipe is left.
    pub(super) fn over(&self) {
        self.over.notify_one();
    }
}

/// One thread alone takes few steps: left to the scheduler, all that it does
/// would come early.
fn wait_a_while() {
    for _ in 0..shuttle::rand::thread_rng().gen_range(0..60) {
        thread::yield_now();
    }
}

/// Both ends of a session.
pub(super) struct Pair {
    ends: [End; 2],
    network: Arc<Network>,
}

struct End {
    shared: Arc<SessionShared>,
    connection: Connection,
    epoch: Epoch,
    /// Control frames on their way here.
    inbox: VecDeque<Frame>,
    /// Streams whose header is not complete.
    begin: Vec<(SendStream, RecvStream, BytesMut)>,
    opening: VecDeque<Arc<PipeShared>>,
    pumps: Vec<JoinHandle<()>>,
}

impl Pair {
    /// A session that is attached, whose pipes keep `capacity` bytes.
    pub(super) fn new(capacity: u64) -> Self {
        let connections = Connection::pair(WINDOW);
        let ends = [(Side::Client, &connections[0]), (Side::Server, &connections[1])];
        let ends = ends.map(|(side, connection)| {
            let parameters =
                Parameters { max_pipes: 8, replay_capacity: capacity, receive_budget: 1 << 30 };
            let (id, secret) = (SessionId::from_bytes([7; 16]), [3; SECRET_LEN].into());
            let core =
                SessionCore::new(side, id, secret, HolderId([1; 16]), parameters, parameters);
            End {
                shared: SessionShared::new(
                    core,
                    1 << 20,
                    None,
                    None,
                    connection,
                    &Environment::default(),
                ),
                connection: connection.clone(),
                epoch: Epoch::FIRST,
                inbox: VecDeque::new(),
                begin: Vec::new(),
                opening: VecDeque::new(),
                pumps: Vec::new(),
            }
        });
        Self { ends, network: Arc::default() }
    }

    pub(super) fn network(&self) -> Arc<Network> {
        self.network.clone()
    }

    pub(super) fn client(&self) -> Arc<SessionShared> {
        self.ends[0].shared.clone()
    }

    /// What the applications of both sides hold.
    pub(super) fn sessions(&self) -> [Session; 2] {
        [0, 1].map(|end| Session::new(self.ends[end].shared.clone()))
    }

    /// Runs until the scenario is over; nothing may be left then.
    pub(super) async fn run(mut self) {
        let network = self.network();
        let [client, server] = [0, 1].map(|end| self.ends[end].shared.clone());
        let mut over = false;
        while !over || self.ends.iter().any(|end| !end.shared.pipes().is_empty()) {
            let step = tokio::select! {
                biased;
                () = network.over.notified() => {
                    over = true;
                    Ok(())
                }
                () = network.cut.notified() => self.resume(),
                () = network.end.notified() => {
                    for end in &self.ends {
                        end.shared.end(SessionError::UnknownSession);
                        end.shared.set_finished();
                    }
                    Ok(())
                }
                () = client.host.wake.notified() => self.on_wake(Side::Client),
                () = server.host.wake.notified() => self.on_wake(Side::Server),
                step = poll_fn(|cx| self.poll_streams(cx)) => step,
            };
            step.and_then(|()| self.deliver()).expect("both sides behave");
        }
        for end in &self.ends {
            assert_eq!(end.shared.stats().bytes_kept, 0);
            assert_eq!(end.shared.host.session_budget.used(), 0);
        }
    }

    fn on_wake(&mut self, side: Side) -> Result<(), PeerMisbehaved> {
        let (end, peer) = self.ends(side);
        let due = end.shared.host.take_due(true);
        if let Some(misbehaved) = due.misbehaved {
            return Err(misbehaved);
        }
        due.now.iter().for_each(|pipe| end.visit(pipe, false, peer));
        due.later.iter().for_each(|pipe| end.visit(pipe, true, peer));
        Ok(())
    }

    fn poll_streams(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), PeerMisbehaved>> {
        for side in [Side::Client, Side::Server] {
            let (end, peer) = self.ends(side);
            while let Poll::Ready((send, recv)) = end.connection.poll_accept_bi(cx) {
                end.begin.push((send, recv, BytesMut::new()));
            }
            for at in 0..end.begin.len() {
                let (_, recv, read) = &mut end.begin[at];
                if let Poll::Ready(begun) = poll_begin(recv, read, cx) {
                    let (send, recv, _) = end.begin.swap_remove(at);
                    let on_begun =
                        |(header, ahead)| end.on_begun((send, recv), header, ahead, peer);
                    return Poll::Ready(begun.map_or(Ok(()), on_begun));
                }
            }
            if !end.opening.is_empty()
                && let Some(stream) = end.connection.try_open_bi()
            {
                return Poll::Ready(end.on_opened(stream));
            }
        }
        Poll::Pending
    }

    /// Hands over all control frames.
    fn deliver(&mut self) -> Result<(), PeerMisbehaved> {
        while let Some(side) = [Side::Client, Side::Server]
            .into_iter()
            .find(|side| !self.ends[*side as usize].inbox.is_empty())
        {
            let (end, peer) = self.ends(side);
            while let Some(frame) = end.inbox.pop_front() {
                end.on_frame(frame, peer)?;
            }
        }
        Ok(())
    }

    /// The connection is lost with all that was on its way, and a new one takes
    /// its place.
    fn resume(&mut self) -> Result<(), PeerMisbehaved> {
        if self.ends[0].shared.table().ended.is_some() {
            return Ok(());
        }
        self.ends[0].connection.lose();
        self.ends.iter_mut().for_each(End::fence);
        let [from_client, from_server] = [0, 1].map(|end| self.ends[end].measure());
        let from_server = self.ends[0].receive(from_server)?;
        let from_client = self.ends[1].receive(from_client)?;
        for (end, told) in self.ends.iter().zip([&from_client, &from_server]) {
            end.assert_frozen(told);
        }
        // From less than a header to a header and some bytes.
        let window = shuttle::rand::thread_rng().gen_range(3..12);
        for (end, connection) in self.ends.iter_mut().zip(Connection::pair(window)) {
            end.connection = connection;
            end.epoch = end.epoch.next();
        }
        for (side, table) in [(Side::Server, from_client), (Side::Client, from_server)] {
            let (end, peer) = self.ends(side);
            end.adopt(&table, peer)?;
        }
        Ok(())
    }

    /// A side, and where what it sends goes.
    fn ends(&mut self, side: Side) -> (&mut End, &mut VecDeque<Frame>) {
        let [client, server] = &mut self.ends;
        match side {
            Side::Client => (client, &mut server.inbox),
            Side::Server => (server, &mut client.inbox),
        }
    }
}

impl End {
    fn visit(&mut self, pipe: &Arc<PipeShared>, later: bool, peer: &mut VecDeque<Frame>) {
        let mut outgoing = Vec::new();
        let wants = pipe.visit(later, &mut outgoing);
        peer.extend(outgoing.into_iter().map(|frame| match frame {
            Outgoing::Ack(ack) => Frame::Acks(vec![ack]),
            Outgoing::Reset(reset) => Frame::Reset(reset),
            Outgoing::Stop(stop) => Frame::Stop(stop),
        }));
        self.serve(pipe, wants);
    }

    fn serve(&mut self, pipe: &Arc<PipeShared>, wants: Wants) {
        if wants.stream {
            self.opening.push_back(pipe.clone());
        }
        if wants.pump {
            let (pipe, epoch) = (pipe.clone(), self.epoch);
            let pump = poll_fn(move |cx| pipe.poll_pump(cx, epoch));
            self.pumps.push(shuttle::future::spawn(pump));
        }
        if wants.release
            && let Some(mut stream) = pipe.release()
        {
            stream.finish();
        }
        if wants.retire {
            self.shared.retire(pipe.id());
        }
    }

    fn on_begun(
        &mut self,
        stream: (SendStream, RecvStream),
        header: Header,
        ahead: Bytes,
        peer: &mut VecDeque<Frame>,
    ) -> Result<(), PeerMisbehaved> {
        let accepted = self.shared.table().core.on_header(&header, self.epoch)?;
        let begun = Some((header.start, ahead));
        let pipe = match accepted {
            Accepted::New(core) => {
                let pipe = PipeShared::new(*core, self.shared.side, self.shared.host.clone());
                pipe.attach(self.epoch, stream, begun)?;
                self.shared.arrive(pipe.clone());
                pipe
            }
            Accepted::Known => match self.shared.pipe(header.pipe) {
                Some(pipe) => {
                    pipe.attach(self.epoch, stream, begun)?;
                    pipe
                }
                None => return Ok(()),
            },
        };
        self.visit(&pipe, false, peer);
        Ok(())
    }

    fn on_opened(&mut self, stream: (SendStream, RecvStream)) -> Result<(), PeerMisbehaved> {
        while let Some(pipe) = self.opening.pop_front() {
            if pipe.is_opening() {
                pipe.attach(self.epoch, stream, None)?;
                let wants = pipe.look();
                self.serve(&pipe, wants);
                break;
            }
        }
        Ok(())
    }

    fn on_frame(&mut self, frame: Frame, peer: &mut VecDeque<Frame>) -> Result<(), PeerMisbehaved> {
        match frame {
            Frame::Acks(acks) => {
                for ack in acks {
                    match self.locate(ack.pipe)? {
                        Ok(pipe) => {
                            let wants = pipe.on_ack(ack.offset, ack.done)?;
                            self.serve(&pipe, wants);
                        }
                        Err(Located::Gone) => {}
                        Err(Located::Early) => panic!("nothing was written to it: {ack:?}"),
                    }
                }
            }
            Frame::Reset(reset) => match self.locate(reset.pipe)? {
                Ok(pipe) => pipe.on_reset(reset.code, reset.offset)?,
                Err(Located::Gone) => {}
                Err(Located::Early) => {
                    let mut table = self.shared.table();
                    let (pipe, code, offset) = (reset.pipe, reset.code, reset.offset);
                    peer.extend(table.core.on_early_reset(pipe, code, offset)?);
                }
            },
            Frame::Stop(stop) => match self.locate(stop.pipe)? {
                Ok(pipe) => pipe.on_stop(stop.code, stop.offset)?,
                Err(Located::Gone) => {}
                Err(Located::Early) => {
                    peer.extend(self.shared.table().core.on_early_stop(stop.pipe, stop.code)?);
                }
            },
            frame => panic!("nobody sends {}", frame.name()),
        }
        Ok(())
    }

    fn locate(&self, id: PipeId) -> Result<Result<Arc<PipeShared>, Located>, PeerMisbehaved> {
        match self.shared.pipe(id) {
            Some(pipe) => Ok(Ok(pipe)),
            None => self.shared.table().core.locate(id).map(Err),
        }
    }

    fn fence(&mut self) {
        self.shared.fence();
        self.pumps.drain(..).for_each(|pump| pump.abort());
        self.inbox.clear();
        self.begin.clear();
        self.opening.clear();
    }

    fn measure(&self) -> Vec<Frame> {
        let positions = self.shared.pipes().iter().map(|pipe| pipe.measure()).collect();
        self.shared.table().core.table(positions).into_frames().collect()
    }

    fn receive(&self, frames: Vec<Frame>) -> Result<PeerTable, PeerMisbehaved> {
        let mut table = self.shared.table().core.expect_table();
        for frame in frames {
            table.on_frame(frame)?;
        }
        Ok(table)
    }

    /// What was told of this side in its table is still so.
    fn assert_frozen(&self, told: &PeerTable) {
        for pipe in self.shared.pipes() {
            // Those opened since are not in it, and nothing can have come.
            let told = told.positions().find(|position| position.pipe == pipe.id());
            assert_eq!(told.map_or(0, |told| told.read), pipe.stats().read, "behind the fence");
        }
    }

    fn adopt(
        &mut self,
        table: &PeerTable,
        peer: &mut VecDeque<Frame>,
    ) -> Result<(), PeerMisbehaved> {
        peer.extend(self.shared.table().core.on_table(table)?);
        let pipes = self.shared.pipes();
        for pipe in &pipes {
            pipe.on_resume(table.view(pipe.id()), self.epoch)?;
        }
        self.shared.set_attached(&self.connection, self.epoch);
        for pipe in &pipes {
            let wants = pipe.look();
            self.serve(pipe, wants);
        }
        self.shared.host.wake.notify_one();
        Ok(())
    }
}

/// Reads a stream up to the end of its header; `None` if it was given up.
fn poll_begin(
    recv: &mut RecvStream,
    read: &mut BytesMut,
    cx: &mut Context<'_>,
) -> Poll<Option<(Header, Bytes)>> {
    while let Ok(Some(chunk)) = std::task::ready!(recv.poll_read_chunk(cx, usize::MAX)) {
        read.extend_from_slice(&chunk);
        let mut bytes = read.clone().freeze();
        if let Some(header) = Header::decode(&mut bytes).expect("a header") {
            return Poll::Ready(Some((header, bytes)));
        }
    }
    Poll::Ready(None)
}
