//! One child process: spoken to, interrupted, reaped.

use std::io::{self, PipeReader, Read};
use std::mem;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{self, ExitStatus};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::super::{
    ExecuteOptions, Execution, InterpreterError, LateOutput, OutputRef, StdStream, Variable,
};
use super::Settings;
use super::cell::{Cell, Pipe, Reply};
use super::channel::Channel;
use super::fault::Fault;
use super::left::Left;
use super::private_dir::PrivateDir;
use super::target::{Ending, Target};
use crate::sys::{self, Watched};

/// How often a silent child is looked at, in case something else keeps its channel open.
const TICK: Duration = Duration::from_millis(250);
/// How often a child that does not take a request is told that there is one. What keeps it, such as a
/// task that does not give way, is interrupted the second time.
const URGE: Duration = Duration::from_millis(500);
/// How many pipes of earlier cells are listened to. The oldest is closed beyond that.
const MOST_STRAYS: usize = 32;
const FRAME_HEADER: usize = 9;
/// Kinds of requests; `driver.py` says what they are.
const CELL: u8 = b'c';
const CELL_AND_PIPES: u8 = b'n';
const VARIABLES: u8 = b'v';
const END: u8 = b'e';
/// The kind of the frame with the driver as the child has compiled it.
pub(super) const COMPILED: u8 = b'k';
/// The number of what is no cell: the start, and the question for variables.
pub(super) const NO_CELL: u64 = 0;
/// As much as a pipe holds, so that one reading empties it.
const BUFFER: usize = 64 * 1024;

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
    /// How many bytes it may have, if that is limited.
    memory: Option<u64>,
    /// A cell has been sent to it.
    has_run: bool,
    #[cfg(all(feature = "confine", target_os = "linux"))]
    pub(super) confined: Option<super::confine::Held>,
    /// Removed last, when nothing of the child's is running any more.
    dir: Option<PrivateDir>,
    left: Left,
}

/// A frame that ends a cell, or answers a question.
pub(super) struct Answer {
    pub(super) kind: u8,
    pub(super) payload: Vec<u8>,
    /// Nothing that was written before it is still in the pipes.
    is_last: bool,
    /// The child was interrupted before.
    timed_out: bool,
}

impl Child {
    pub(super) fn new(
        process: process::Child,
        target: Arc<Target>,
        channel: Channel,
        pipes: [Pipe; 2],
        dir: Option<PrivateDir>,
        left: Left,
        settings: &Settings,
    ) -> Self {
        Self {
            process,
            target,
            channel,
            inbox: Vec::new(),
            pipes,
            strays: Vec::new(),
            tainted: false,
            untold: Vec::new(),
            buffer: vec![0; BUFFER].into_boxed_slice(),
            memory: settings.limits.memory,
            has_run: false,
            #[cfg(all(feature = "confine", target_os = "linux"))]
            confined: None,
            dir,
            left,
        }
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
        self.has_run = true;
        let mut request = request(kind, wire_number, options, length);
        request.extend_from_slice(code.as_bytes());
        let outcome = self.ask(&request, &mut cell, options, grace);
        match outcome.and_then(|answer| Ok((Reply::parse(answer.kind, &answer.payload)?, answer))) {
            Ok((reply, answer)) => {
                self.tainted = reply.tainted;
                if !answer.is_last {
                    self.take_ready(&mut cell);
                }
                cell.finish_text(&mut self.pipes);
                Ok(cell.conclude(reply, start, answer.timed_out))
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
        let question = request(VARIABLES, 0, options, 0);
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
        self.target.begin_request();
        let answer = self.answer(request, cell, options, grace);
        self.target.end_request();
        answer
    }

    fn answer(
        &mut self,
        mut request: &[u8],
        cell: &mut Cell<'_>,
        options: &ExecuteOptions,
        grace: Duration,
    ) -> Result<Answer, Fault> {
        let begun = Instant::now();
        let mut deadline = options.timeout.and_then(|limit| begun.checked_add(limit));
        let mut urge = Some(begun + URGE);
        let mut steps = [Target::interrupt, Target::interrupt_all].into_iter();
        let mut timed_out = false;
        loop {
            let until = deadline.into_iter().chain(urge).min();
            let came = match request {
                [] => self.turn(cell, until),
                _ => self.send(&mut request, until).map(|()| None),
            };
            match came {
                Ok(Some(answer)) => return Ok(Answer { timed_out, ..answer }),
                Ok(None) => {}
                Err(Fault::Late) if until != deadline => {
                    let waits = self.channel.is_waiting();
                    urge = waits.then(|| Instant::now() + URGE);
                    if waits {
                        self.target.urge();
                    }
                }
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
            Fault::OutOfMemory => InterpreterError::died(self.out_of_memory()),
            Fault::Protocol(what) => InterpreterError::protocol(what),
            #[cfg(all(feature = "confine", target_os = "linux"))]
            Fault::Overfull(what) => InterpreterError::died(format!("it was ended: {what}")),
        };
        self.kill();
        self.take_ready(&mut cell);
        cell.finish_text(&mut self.pipes);
        error.with_outputs(cell.into_gathered().outputs)
    }

    fn out_of_memory(&self) -> String {
        match self.memory {
            Some(bytes) => format!("out of memory: it may have {bytes} bytes, by max_memory"),
            None => "out of memory".to_owned(),
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
            let fresh = Pipe::new(reader, pipe.stream, number);
            self.strays.push(mem::replace(pipe, fresh));
        }
        let excess = self.strays.len().saturating_sub(MOST_STRAYS);
        self.strays.drain(..excess);
        true
    }

    /// Sends all, and takes what it has sent off the front.
    pub(super) fn send(
        &mut self,
        bytes: &mut &[u8],
        deadline: Option<Instant>,
    ) -> Result<(), Fault> {
        while !bytes.is_empty() {
            match self.channel.write(bytes) {
                Ok(n) => *bytes = &bytes[n..],
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
    pub(super) fn turn(
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
            if length > LIGHT && !b"oe".contains(&kind) && weight(payload) > cell.largest_weight {
                return Err(Fault::Protocol("a frame of too many parts"));
            }
            let own = u64::from(u32::from_be_bytes(number)) == cell.number;
            match kind {
                b'o' if own => cell.frame(StdStream::Stdout, payload),
                b'e' if own => cell.frame(StdStream::Stderr, payload),
                b'd' if own => cell.display(payload)?,
                b'm' => return Err(Fault::OutOfMemory),
                b'r' | b's' | b'v' | b'h' | COMPILED if own => {
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
    pub(super) fn take_rest(&mut self, cell: &mut Cell<'_>) {
        self.take_ready(cell);
        for pipe in &mut self.pipes {
            let rest = pipe.decoder.finish();
            cell.pipe(pipe, &rest);
            pipe.cell = cell.number;
        }
    }

    /// Waits for the child to end by itself, then makes it; reaps it and says how it ended.
    pub(super) fn end(&mut self, patience: Duration) -> Ending {
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
        let _ = self.channel.write(&request(END, 0, &ExecuteOptions::new(), 0));
        self.end(patience)
    }

    pub(super) fn kill(&self) {
        self.target.kill();
    }

    /// Kills whatever is left of the child's session, and reaps it; then ends what has left the
    /// session, unless that is to be kept.
    fn reap(&mut self) -> Option<ExitStatus> {
        let process = &mut self.process;
        let status = self.target.reap(|| process.wait().ok());
        // One that has run no cell has started nothing.
        if mem::take(&mut self.has_run) {
            self.left.end_detached();
        }
        status
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.reap();
    }
}

/// The head of a request, with room for the code.
fn request(kind: u8, number: u32, options: &ExecuteOptions, length: u32) -> Vec<u8> {
    let mut request = Vec::with_capacity(25 + length as usize);
    request.push(kind);
    request.extend_from_slice(&number.to_be_bytes());
    request.extend_from_slice(&(options.max_output as u64).to_be_bytes());
    request.extend_from_slice(&(options.max_data as u64).to_be_bytes());
    request.extend_from_slice(&length.to_be_bytes());
    request
}

/// Frames up to this are read without a look at what they are made of.
const LIGHT: usize = 256 << 10;

/// How much memory JSON takes about when it has been read: a number in a list takes a dozen times what it has
/// in text, and an object hundreds. A cell that writes frames of its own could choose the worst.
fn weight(json: &[u8]) -> usize {
    let (mut total, mut in_text, mut escaped) = (json.len(), false, false);
    for &byte in json {
        match (in_text, byte) {
            (true, _) if escaped => escaped = false,
            (true, b'\\') => escaped = true,
            (_, b'"') => in_text = !in_text,
            (false, b',') => total += 40,
            (false, b'[') => total += 60,
            (false, b'{') => total += 700,
            _ => {}
        }
    }
    total
}

fn read(reader: &mut PipeReader, buffer: &mut [u8]) -> usize {
    // An error is as good as an end: neither gives another byte.
    reader.read(buffer).unwrap_or(0)
}
