//! One child process: started, spoken to, interrupted, reaped.

use std::io::{self, PipeReader, Read};
use std::mem;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{self, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::super::lease::Lease;
use super::super::text::{Decoder, Gatherer, cut};
use super::super::{
    ErrorInfo, ExecuteOptions, Execution, InterpreterError, LateOutput, MimeBundle, OutputRef,
    StdStream, Variable,
};
use super::Settings;
use super::channel::Channel;
#[cfg(all(feature = "confine", target_os = "linux"))]
use super::confine::Plan;
use super::left::{Left, MARK};
use super::private_dir::PrivateDir;
use crate::sys::{self, Watched};

const DRIVER: &str = include_str!("driver.py");
/// How often a silent child is looked at, in case something else keeps its channel open.
const TICK: Duration = Duration::from_millis(250);
/// How many pipes of earlier cells are listened to. The oldest is closed beyond that.
const MOST_STRAYS: usize = 32;
const FRAME_HEADER: usize = 9;
/// Kinds of requests; `driver.py` says what they are.
const CELL: u8 = b'c';
const CELL_AND_PIPES: u8 = b'n';
const VARIABLES: u8 = b'v';
const END: u8 = b'e';
/// The number of what is no cell: the start, and the question for variables.
const NO_CELL: u64 = 0;
/// As much as a pipe holds, so that one reading empties it.
const BUFFER: usize = 64 * 1024;

/// Sends signals to the child from any thread, as long as it is there to receive them.
#[derive(Debug)]
pub(super) struct Target {
    /// `None` once reaped: from then on the number may be anybody's.
    pid: Mutex<Option<libc::pid_t>>,
}

impl Target {
    pub(super) fn interrupt(&self) {
        self.signal(1, libc::SIGINT);
    }

    /// Interrupts the child and all that it started, as a Ctrl-C at a terminal would: the cell may
    /// be waiting for one of them, deaf meanwhile.
    fn interrupt_all(&self) {
        self.signal(-1, libc::SIGINT);
    }

    /// Kills the child and all that it started and that stayed in its session.
    fn kill(&self) {
        self.signal(-1, libc::SIGKILL);
        self.signal(1, libc::SIGKILL); // in case it is not in a session of its own
    }

    fn signal(&self, sign: i32, signal: i32) {
        let pid = self.pid.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pid) = *pid {
            sys::kill(sign * pid, signal);
        }
    }

    fn has_exited(&self) -> bool {
        let pid = self.pid.lock().unwrap_or_else(PoisonError::into_inner);
        pid.is_none_or(sys::has_exited)
    }
}

/// The child, its channel, and the pipes that are its standard output and standard error.
///
/// Dropping it kills and reaps it.
#[derive(Debug)]
pub(super) struct Child {
    process: process::Child,
    target: Arc<Target>,
    channel: Channel,
    /// Bytes of the channel that are not yet a whole frame.
    inbox: Vec<u8>,
    pipes: [Pipe; 2],
    /// Pipes of earlier cells whose child processes may still be writing.
    strays: Vec<Pipe>,
    /// The last cell may have left child processes that hold its pipes.
    tainted: bool,
    /// Late output that was read when no cell was there to tell of it.
    untold: Vec<LateOutput>,
    buffer: Box<[u8]>,
    #[cfg(all(feature = "confine", target_os = "linux"))]
    confined: Option<super::confine::Held>,
    /// Removed last, when nothing of the child's is running any more.
    dir: Option<PrivateDir>,
    _lease: Option<Lease>,
}

/// A child that waits for its first cell, and the version of its Python.
#[derive(Debug)]
pub(super) struct Ready {
    pub(super) child: Child,
    pub(super) version: String,
}

#[derive(Debug)]
struct Pipe {
    reader: PipeReader,
    stream: StdStream,
    /// The last cell that had it as its own.
    cell: u64,
    decoder: Decoder,
}

#[derive(Deserialize)]
struct Hello {
    version: String,
}

/// What the driver says when a cell has ended.
#[derive(Deserialize)]
struct Reply {
    result: Option<MimeBundle>,
    error: Option<ErrorInfo>,
    cut: bool,
    late: Vec<(u64, char, String)>,
    tainted: bool,
}

impl Reply {
    /// Of a frame of kind `r` or `s`.
    fn parse(kind: u8, payload: &[u8]) -> Result<Self, Fault> {
        const NONE: Fault = Fault::Protocol("a reply that is none");
        if kind == b'r' {
            return serde_json::from_slice(payload).map_err(|_| NONE);
        }
        let (b's', Some((&flags, text))) = (kind, payload.split_first()) else {
            return Err(NONE);
        };
        let [tainted, cut, value] = [1, 2, 4].map(|flag| flags & flag != 0);
        let result = value.then(|| {
            let text = String::from_utf8_lossy(text).into_owned();
            MimeBundle::from([("text/plain".to_owned(), text.into())])
        });
        Ok(Self { result, error: None, cut, late: Vec::new(), tainted })
    }
}

/// A frame that ends a cell, or answers a question.
struct Answer {
    kind: u8,
    payload: Vec<u8>,
    /// Nothing that was written before it is still in the pipes.
    is_last: bool,
    /// The child was interrupted before.
    timed_out: bool,
}

/// What has come of the running cell so far.
struct Cell<'a> {
    number: u64,
    gatherer: Gatherer<'a>,
    late: Vec<LateOutput>,
    late_room: usize,
    /// For text in frames, which may end amid a character when a cell writes bytes.
    decoders: [Decoder; 2],
    largest_frame: usize,
}

impl Child {
    /// Starts the child and waits until it is ready.
    pub(super) fn start(settings: &Settings) -> Result<Ready, InterpreterError> {
        let python = settings.python.display();
        let failed = |what: &str| {
            let what = format!("{python}: {what}");
            move |source| InterpreterError::start(what, Some(source))
        };
        let (channel, theirs) = Channel::new().map_err(failed("no channel"))?;
        let (stdout, their_stdout) = io::pipe().map_err(failed("no pipe"))?;
        let (stderr, their_stderr) = io::pipe().map_err(failed("no pipe"))?;

        // From before there is anything to be left behind. Where nothing can be written down, it
        // goes without.
        let lease = Left::write_down(settings.private_dir);
        let dir = settings.private_dir.then(|| PrivateDir::new(lease.as_ref())).transpose();
        let dir = dir.map_err(failed("no directory of its own"))?;

        // The driver comes over the channel, so that a list of processes stays readable.
        let boot = format!(
            "import os,_socket,struct\ns=_socket.socket(fileno=os.dup(0))\n\
             p=struct.unpack('2i',s.recvmsg(1,_socket.CMSG_SPACE(8))[1][0][2])\nd=b''\n\
             while len(d)<{n}:\n b=os.read(p[0],{n}-len(d))\n if not b:os._exit(1)\n d+=b\n\
             exec(compile(d,'<sessile>','exec'),\
             {{'__name__':'sessile_driver','passage':s,'pipes':p}})",
            n = DRIVER.len()
        );
        #[cfg(all(feature = "confine", target_os = "linux"))]
        let plan = settings.confinement.as_ref().zip(dir.as_ref()).map(|(asked, dir)| {
            Plan::new(asked, settings, dir.path()).map(|plan| (asked, plan)).map_err(|what| {
                InterpreterError::start(format!("{python}: it cannot be confined: {what}"), None)
            })
        });
        #[cfg(all(feature = "confine", target_os = "linux"))]
        let plan = plan.transpose()?;
        #[cfg(all(feature = "confine", target_os = "linux"))]
        let program = plan.as_ref().map_or(settings.python.as_path(), |(_, plan)| plan.command());
        #[cfg(not(all(feature = "confine", target_os = "linux")))]
        let program = &settings.python;

        let mut command = process::Command::new(program);
        command.args(&settings.args).arg("-c").arg(boot);
        #[cfg(all(feature = "confine", target_os = "linux"))]
        if let Some((asked, plan)) = &plan {
            plan.clear_environment(asked, &mut command);
            plan.become_user(&mut command);
        }
        command.envs(settings.env.iter().map(|(name, value)| (name, value)));
        if let Some((_, left)) = &lease {
            command.env(MARK, &left.mark);
        }
        if let Some(dir) = dir.as_ref().map(PrivateDir::path).or(settings.current_dir.as_deref()) {
            command.current_dir(dir);
        }
        command.stdin(Stdio::from(OwnedFd::from(theirs))).stdout(their_stdout).stderr(their_stderr);
        sys::detach_and_bind(&mut command);
        sys::limit(&mut command, settings.limits);
        #[cfg(all(feature = "confine", target_os = "linux"))]
        let confined = plan.map(|(_, plan)| plan.restrict(&mut command)); // behind all other hooks
        let process = command.spawn().map_err(failed("cannot be run"))?;
        drop(command); // and with it our copies of the child's ends

        let pid = libc::pid_t::try_from(process.id()).expect("process ids are positive");
        let pipe = |reader, stream| Pipe { reader, stream, cell: 0, decoder: Decoder::default() };
        let mut child = Self {
            process,
            target: Arc::new(Target { pid: Mutex::new(Some(pid)) }),
            channel,
            inbox: Vec::new(),
            pipes: [pipe(stdout, StdStream::Stdout), pipe(stderr, StdStream::Stderr)],
            strays: Vec::new(),
            tainted: false,
            untold: Vec::new(),
            buffer: vec![0; BUFFER].into_boxed_slice(),
            #[cfg(all(feature = "confine", target_os = "linux"))]
            confined,
            dir,
            _lease: lease.map(|(lease, _)| lease),
        };
        child.greet(settings.start_timeout).map(|version| Ready { child, version }).map_err(
            |Greeting { what, said }| {
                let said = said.trim_end();
                let colon = if said.is_empty() { "" } else { ": " };
                InterpreterError::start(format!("{python} {what}{colon}{said}"), None)
            },
        )
    }

    pub(super) fn private_dir(&self) -> Option<&Path> {
        self.dir.as_ref().map(PrivateDir::path)
    }

    #[cfg(all(feature = "confine", target_os = "linux"))]
    pub(super) fn enforcement(&self) -> Option<&super::confine::Enforcement> {
        self.confined.as_ref().map(|held| &held.enforcement)
    }

    pub(super) fn target(&self) -> Arc<Target> {
        Arc::clone(&self.target)
    }

    pub(super) fn has_exited(&self) -> bool {
        self.target.has_exited()
    }

    /// Sends the driver and waits for its hello.
    fn greet(&mut self, time: Duration) -> Result<String, Greeting> {
        let deadline = Instant::now() + time;
        let mut ignore = |_: OutputRef<'_>| {};
        let mut cell = Cell::new(NO_CELL, &ExecuteOptions::new(), &mut ignore);
        let outcome = self.send(DRIVER.as_bytes(), Some(deadline)).and_then(|()| {
            loop {
                if let Some(answer) = self.turn(&mut cell, Some(deadline))? {
                    let hello = serde_json::from_slice::<Hello>(&answer.payload);
                    break hello.map(|hello| hello.version).map_err(|_| Fault::Protocol("hello"));
                }
            }
        });
        outcome.map_err(|fault| {
            let what = match fault {
                Fault::Ended => format!("ended at once ({})", self.end(Duration::from_secs(1))),
                Fault::Late => format!("was not ready within {time:?}"),
                Fault::Protocol(what) => format!("sent no {what}"),
                #[cfg(all(feature = "confine", target_os = "linux"))]
                Fault::Overfull(what) => what,
            };
            self.target.kill();
            self.take_rest(&mut cell);
            let (outputs, _) = cell.gatherer.finish();
            Greeting { what, said: Execution { outputs, ..Execution::default() }.stderr() }
        })
    }

    /// Runs a cell. After an error the child is good for nothing but to be dropped.
    pub(super) fn run(
        &mut self,
        number: u64,
        code: &str,
        options: &ExecuteOptions,
        grace: Duration,
        on_output: &mut dyn FnMut(OutputRef<'_>),
    ) -> Result<Execution, InterpreterError> {
        let (Ok(wire_number), Ok(length)) = (u32::try_from(number), u32::try_from(code.len()))
        else {
            return Err(InterpreterError::refused("it is longer than 4 GiB"));
        };
        let start = Instant::now();
        let mut cell = Cell::new(number, options, on_output);
        cell.late = mem::take(&mut self.untold);
        let kind = if self.tainted && self.renew_pipes(number) { CELL_AND_PIPES } else { CELL };
        self.take_rest(&mut cell);
        let mut request = request(kind, wire_number, options.max_output, length);
        request.extend_from_slice(code.as_bytes());
        let outcome = self.ask(&request, &mut cell, options, grace);
        match outcome.and_then(|answer| Ok((Reply::parse(answer.kind, &answer.payload)?, answer))) {
            Ok((reply, answer)) => {
                self.tainted = reply.tainted;
                if !answer.is_last {
                    self.take_ready(&mut cell);
                }
                Ok(self.conclude(cell, reply, start, answer.timed_out))
            }
            Err(fault) => Err(self.give_up(fault, cell, options, grace)),
        }
    }

    /// What is bound at top level. What is written meanwhile is kept for the next cell to tell of.
    pub(super) fn variables(
        &mut self,
        options: &ExecuteOptions,
        grace: Duration,
    ) -> Result<Vec<Variable>, InterpreterError> {
        let mut ignore = |_: OutputRef<'_>| {};
        let mut cell = Cell::new(NO_CELL, options, &mut ignore);
        cell.late = mem::take(&mut self.untold);
        let question = request(VARIABLES, 0, options.max_output, 0);
        let outcome = self.ask(&question, &mut cell, options, grace).and_then(|answer| {
            serde_json::from_slice::<Vec<Variable>>(&answer.payload)
                .map_err(|_| Fault::Protocol("a list of variables that is none"))
        });
        match outcome {
            Ok(variables) => {
                self.untold = cell.late;
                Ok(variables)
            }
            Err(fault) => Err(self.give_up(fault, cell, options, grace)),
        }
    }

    /// Sends a request and waits for its answer, interrupting at the time limit.
    fn ask(
        &mut self,
        request: &[u8],
        cell: &mut Cell<'_>,
        options: &ExecuteOptions,
        grace: Duration,
    ) -> Result<Answer, Fault> {
        let mut deadline = options.timeout.and_then(|limit| Instant::now().checked_add(limit));
        let mut steps = [Target::interrupt, Target::interrupt_all].into_iter();
        let mut timed_out = false;
        self.send(request, deadline)?;
        loop {
            match self.turn(cell, deadline) {
                Ok(Some(answer)) => return Ok(Answer { timed_out, ..answer }),
                Ok(None) => {}
                Err(Fault::Late) => {
                    timed_out = true;
                    steps.next().ok_or(Fault::Late)?(&self.target);
                    deadline = Some(Instant::now() + grace / 2);
                }
                Err(fault) => return Err(fault),
            }
        }
    }

    /// Ends the child, and says why.
    fn give_up(
        &mut self,
        fault: Fault,
        mut cell: Cell<'_>,
        options: &ExecuteOptions,
        grace: Duration,
    ) -> InterpreterError {
        let error = match fault {
            Fault::Late => InterpreterError::killed(options.timeout.unwrap_or_default()),
            Fault::Ended => InterpreterError::died(self.end(grace).to_string()),
            Fault::Protocol(what) => InterpreterError::protocol(what),
            #[cfg(all(feature = "confine", target_os = "linux"))]
            Fault::Overfull(what) => InterpreterError::died(format!("it was ended: {what}")),
        };
        self.target.kill();
        self.take_ready(&mut cell);
        cell.finish_text(&mut self.pipes);
        error.with_outputs(cell.gatherer.finish().0)
    }

    fn conclude(
        &mut self,
        mut cell: Cell<'_>,
        reply: Reply,
        start: Instant,
        timed_out: bool,
    ) -> Execution {
        cell.finish_text(&mut self.pipes);
        let mut truncated = reply.cut;
        for (number, kind, text) in reply.late {
            let stream = if kind == 'e' { StdStream::Stderr } else { StdStream::Stdout };
            truncated |= cell.late(number, stream, &text);
        }
        let (outputs, cut_short) = cell.gatherer.finish();
        let micros = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
        Execution {
            outputs,
            timed_out,
            result: reply.result,
            error: reply.error,
            duration: Duration::from_micros(micros), // what a round trip through JSON keeps
            execution_count: cell.number,
            truncated: truncated | cut_short,
            late: cell.late,
        }
    }

    /// Makes new pipes, for a child whose old ones somebody else may hold, and gives it its ends.
    ///
    /// `false` if there are no descriptors to be had. The old ones stay then, and the worst that
    /// comes of it is that late output is taken for this cell's.
    fn renew_pipes(&mut self, number: u64) -> bool {
        let (Ok((stdout, their_stdout)), Ok((stderr, their_stderr))) = (io::pipe(), io::pipe())
        else {
            return false;
        };
        if self.channel.pass([their_stdout.as_fd(), their_stderr.as_fd()]).is_err() {
            return false;
        }
        for (pipe, reader) in self.pipes.iter_mut().zip([stdout, stderr]) {
            let fresh =
                Pipe { reader, stream: pipe.stream, cell: number, decoder: Decoder::default() };
            self.strays.push(mem::replace(pipe, fresh));
        }
        let excess = self.strays.len().saturating_sub(MOST_STRAYS);
        self.strays.drain(..excess);
        true
    }

    fn send(&mut self, mut bytes: &[u8], deadline: Option<Instant>) -> Result<(), Fault> {
        while !bytes.is_empty() {
            match self.channel.write(bytes) {
                Ok(n) => bytes = &bytes[n..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.wait(&mut [self.channel.writable()], deadline)?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Err(Fault::Ended),
            }
        }
        Ok(())
    }

    /// Waits for something to be ready; an error if the deadline passes or the child has ended.
    fn wait(&self, watched: &mut [Watched], deadline: Option<Instant>) -> Result<(), Fault> {
        loop {
            #[cfg(all(feature = "confine", target_os = "linux"))]
            if let Some(overfull) = self.confined.as_ref().and_then(super::confine::Held::overfull)
            {
                return Err(Fault::Overfull(overfull));
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let time = left.map_or(TICK, |left| left.min(TICK));
            sys::poll(watched, time).map_err(|_| Fault::Ended)?;
            if watched.iter().any(|one| one.revents != 0) {
                return Ok(());
            }
            if left.is_some_and(|left| left.is_zero()) {
                return Err(Fault::Late);
            }
            if self.has_exited() {
                return Err(Fault::Ended);
            }
        }
    }

    /// Waits once and takes what came; returns a frame that is not text, if there was one.
    ///
    /// The channel stands before the pipes in the list, and is read before them.
    ///
    /// Order: the driver sends a frame only when the pipes are empty. So if a pipe was seen ready,
    /// all frames that came before its bytes are on the channel by the time that is read, and none
    /// that came after them.
    ///
    /// Completeness: the answer is sent when the cell has written all. So if it was what made the
    /// channel ready, whatever the cell had written was in the pipes by the time those were looked
    /// at; and if they were not ready then, nothing of it is left.
    fn turn(
        &mut self,
        cell: &mut Cell<'_>,
        deadline: Option<Instant>,
    ) -> Result<Option<Answer>, Fault> {
        let answer = |(kind, payload), is_last| Answer { kind, payload, is_last, timed_out: false };
        if let Some(frame) = self.next_frame(cell)? {
            return Ok(Some(answer(frame, false)));
        }
        let mut watched = vec![self.channel.readable()];
        watched.extend(self.readers().map(sys::readable));
        self.wait(&mut watched, deadline)?;
        let pipes = &watched[1..];
        let was_empty = self.inbox.is_empty();
        let is_open = self.fill();
        let is_first = was_empty && !self.inbox.first().is_some_and(|kind| b"oed".contains(kind));
        let frame = self.next_frame(cell)?;
        self.read_pipes(pipes, cell);
        if frame.is_none() && !is_open {
            return Err(Fault::Ended);
        }
        // A child that floods its pipes keeps `wait` from ever being idle.
        if frame.is_none() && deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            return Err(Fault::Late);
        }
        let is_last = is_first && pipes.iter().all(|one| one.revents == 0);
        Ok(frame.map(|frame| answer(frame, is_last)))
    }

    fn readers(&self) -> impl Iterator<Item = &PipeReader> {
        self.pipes.iter().chain(&self.strays).map(|pipe| &pipe.reader)
    }

    /// Reads what is on the channel now; `false` at its end.
    fn fill(&mut self) -> bool {
        loop {
            match self.channel.read(&mut self.buffer) {
                Ok(n) => {
                    self.inbox.extend_from_slice(&self.buffer[..n]);
                    return n > 0;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
    }

    /// Takes whole frames from the inbox; returns the first that is not part of the output.
    fn next_frame(&mut self, cell: &mut Cell<'_>) -> Result<Option<(u8, Vec<u8>)>, Fault> {
        let mut taken = 0;
        let mut answer = None;
        while let Some((header, rest)) = self.inbox[taken..].split_first_chunk::<FRAME_HEADER>() {
            let [kind, number @ .., l0, l1, l2, l3] = *header;
            let length = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
            if length > cell.largest_frame {
                return Err(Fault::Protocol("a frame without end"));
            }
            let Some(payload) = rest.get(..length) else {
                break;
            };
            taken += FRAME_HEADER + length;
            let own = u64::from(u32::from_be_bytes(number)) == cell.number;
            match kind {
                b'o' if own => cell.frame(StdStream::Stdout, payload),
                b'e' if own => cell.frame(StdStream::Stderr, payload),
                b'd' if own => {
                    let data = serde_json::from_slice(payload)
                        .map_err(|_| Fault::Protocol("a display that is none"))?;
                    cell.gatherer.display(data, length);
                }
                b'r' | b's' | b'v' | b'h' if own => {
                    answer = Some((kind, payload.to_vec()));
                    break;
                }
                _ => return Err(Fault::Protocol("a frame out of place")),
            }
        }
        self.inbox.drain(..taken);
        Ok(answer)
    }

    /// Reads each pipe that is ready, once: more might block. Drops strays that have ended.
    fn read_pipes(&mut self, watched: &[Watched], cell: &mut Cell<'_>) {
        let Self { pipes, strays, buffer, .. } = self;
        let mut ready = watched.iter().map(|one| one.revents != 0);
        for pipe in pipes {
            if ready.next() == Some(true) {
                let n = read(&mut pipe.reader, buffer);
                let text = pipe.decoder.decode(&buffer[..n]);
                cell.pipe(pipe, &text);
            }
        }
        strays.retain_mut(|pipe| {
            if ready.next() != Some(true) {
                return true;
            }
            let n = read(&mut pipe.reader, buffer);
            let text =
                if n == 0 { pipe.decoder.finish() } else { pipe.decoder.decode(&buffer[..n]) };
            cell.late(pipe.cell, pipe.stream, &text);
            n != 0
        });
    }

    /// Takes what lies in the pipes now, without waiting for more.
    fn take_ready(&mut self, cell: &mut Cell<'_>) {
        // Bounded: somebody may be writing faster than this reads.
        for _ in 0..64 {
            let mut watched: Vec<_> = self.readers().map(sys::readable).collect();
            if sys::poll(&mut watched, Duration::ZERO).is_err() {
                return;
            }
            // At the end of a pipe of the child itself there is nothing more to come from it.
            if !watched.iter().any(|one| one.revents & libc::POLLIN != 0) {
                return;
            }
            self.read_pipes(&watched, cell);
        }
    }

    /// Takes what came after the last cell had ended, as that cell's late output.
    fn take_rest(&mut self, cell: &mut Cell<'_>) {
        self.take_ready(cell);
        for pipe in &mut self.pipes {
            let rest = pipe.decoder.finish();
            cell.pipe(pipe, &rest);
            pipe.cell = cell.number;
        }
    }

    /// Waits for the child to end by itself, then makes it; reaps it and says how it ended.
    fn end(&mut self, patience: Duration) -> Ending {
        let deadline = Instant::now() + patience;
        let mut pause = Duration::from_micros(100);
        while !self.has_exited() && Instant::now() < deadline {
            thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(5));
        }
        let on_its_own = self.has_exited();
        Ending { on_its_own, status: self.reap() }
    }

    /// Asks the child to end; kills it when it has not after a while.
    pub(super) fn close(mut self, patience: Duration) -> Ending {
        // Not by closing the pipe, which a fork of ours may hold too.
        let _ = self.channel.write(&request(END, 0, 0, 0));
        self.end(patience)
    }

    /// Kills whatever is left of the child's session, and reaps it.
    fn reap(&mut self) -> Option<ExitStatus> {
        // While the child is not reaped, its number cannot be another's, nor that of its group.
        self.target.kill();
        let mut pid = self.target.pid.lock().unwrap_or_else(PoisonError::into_inner);
        let status = self.process.wait().ok();
        *pid = None;
        status
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.reap();
    }
}

impl<'a> Cell<'a> {
    fn new(
        number: u64,
        options: &ExecuteOptions,
        on_output: &'a mut dyn FnMut(OutputRef<'_>),
    ) -> Self {
        Self {
            number,
            gatherer: Gatherer::new(options.max_output, on_output),
            late: Vec::new(),
            late_room: options.max_output,
            decoders: Default::default(),
            // Ten forms of a value at most, each character of which may take six in JSON.
            largest_frame: options.max_output.saturating_mul(64).saturating_add(1 << 20),
        }
    }

    fn frame(&mut self, stream: StdStream, payload: &[u8]) {
        let text = self.decoders[stream as usize].decode(payload);
        self.gatherer.text(stream, &text);
    }

    fn pipe(&mut self, pipe: &Pipe, text: &str) {
        if pipe.cell == self.number {
            self.gatherer.text(pipe.stream, text);
        } else {
            self.late(pipe.cell, pipe.stream, text);
        }
    }

    /// Notes what an earlier cell's writers wrote; whether some of it had to be left out.
    fn late(&mut self, cell: u64, stream: StdStream, text: &str) -> bool {
        let kept = cut(text, self.late_room);
        self.late_room -= kept.len();
        match self.late.last_mut() {
            _ if kept.is_empty() => {}
            Some(last) if last.cell == cell && last.stream == stream => last.text.push_str(kept),
            _ => self.late.push(LateOutput { cell, stream, text: kept.into() }),
        }
        kept.len() < text.len()
    }

    /// Ends characters that were begun and not ended.
    fn finish_text(&mut self, pipes: &mut [Pipe; 2]) {
        for stream in [StdStream::Stdout, StdStream::Stderr] {
            let text = self.decoders[stream as usize].finish();
            self.gatherer.text(stream, &text);
            let text = pipes[stream as usize].decoder.finish();
            self.gatherer.text(stream, &text);
        }
    }
}

/// The head of a request, with room for the code.
fn request(kind: u8, number: u32, limit: usize, length: u32) -> Vec<u8> {
    let mut request = Vec::with_capacity(17 + length as usize);
    request.push(kind);
    request.extend_from_slice(&number.to_be_bytes());
    request.extend_from_slice(&(limit as u64).to_be_bytes());
    request.extend_from_slice(&length.to_be_bytes());
    request
}

fn read(reader: &mut PipeReader, buffer: &mut [u8]) -> usize {
    // An error is as good as an end: neither gives another byte.
    reader.read(buffer).unwrap_or(0)
}

enum Fault {
    /// The deadline has passed.
    Late,
    /// The child has ended, or is about to.
    Ended,
    /// What it said cannot be.
    Protocol(&'static str),
    /// Its directory holds more than it may.
    #[cfg(all(feature = "confine", target_os = "linux"))]
    Overfull(String),
}

struct Greeting {
    what: String,
    said: String,
}

/// How the child ended.
#[derive(Debug)]
pub(super) struct Ending {
    /// Without being killed by us.
    pub(super) on_its_own: bool,
    status: Option<ExitStatus>,
}

impl std::fmt::Display for Ending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.status {
            _ if !self.on_its_own => f.write_str("it would not exit, and was killed"),
            Some(status) => status.fmt(f),
            None => f.write_str("exit status unknown"),
        }
    }
}
