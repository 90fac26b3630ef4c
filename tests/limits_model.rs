//! `max_size` against a model: random scripts, and after every step the pool is as a small list says.
//!
//! The model is what docs/threading-model.md promises: room goes to whoever has waited longest; while
//! somebody waits, no instance is idle; nobody makes more than there may be.

mod support;

use std::collections::VecDeque;
use std::time::Duration;

use sessile::pool::InstanceId;
use sessile::{Pool, PoolError, Registry};
use support::*;

type Used = Pending<Result<InstanceId, PoolError>>;

/// What a thread has, as the model sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Has {
    Nothing,
    Idle,
    /// It is inside its instance; and whether the pool was cleared since.
    Busy {
        stale: bool,
    },
    Waits,
}

struct Thread {
    worker: Worker,
    has: Has,
    /// Where it is held while it is inside, and what it will say.
    inside: Option<(Gate, Used)>,
}

struct Scene {
    stage: Stage,
    registry: Registry,
    pool: Pool<Session>,
    max_size: usize,
    threads: Vec<Thread>,
    /// Who waits, first come first.
    line: VecDeque<usize>,
    script: Vec<String>,
}

fn name(thread: usize) -> String {
    format!("owner-{thread}")
}

impl Scene {
    fn new(max_size: usize, threads: usize) -> Self {
        let (stage, registry) = (Stage::new(), Registry::new());
        let builder = stage.builder(&registry).max_size(max_size).wait_timeout(None);
        let thread = |n| Thread { worker: Worker::new(&name(n)), has: Has::Nothing, inside: None };
        Self {
            pool: builder.build().unwrap(),
            stage,
            registry,
            max_size,
            threads: (0..threads).map(thread).collect(),
            line: VecDeque::new(),
            script: Vec::new(),
        }
    }

    fn count(&self, is: impl Fn(Has) -> bool) -> usize {
        self.threads.iter().filter(|thread| is(thread.has)).count()
    }

    fn live(&self) -> usize {
        self.count(|has| matches!(has, Has::Idle | Has::Busy { .. }))
    }

    /// A thread asks for its instance, and stays inside until it is let go.
    fn ask(&mut self, thread: usize) {
        let (pool, gate) = (self.pool.clone(), Gate::new());
        let holds = gate.clone();
        let used = self.threads[thread].worker.start(move || {
            pool.with(|session| {
                holds.pass();
                session.touch()
            })
        });
        self.threads[thread].inside = Some((gate, used));
        let had = self.threads[thread].has;
        if had == Has::Idle || self.live() < self.max_size {
            self.enters(thread);
        } else if self.count(|has| has == Has::Idle) > 0 {
            self.enters(thread);
            self.one_idle_has_gone();
        } else {
            self.threads[thread].has = Has::Waits;
            self.line.push_back(thread);
        }
    }

    fn enters(&mut self, thread: usize) {
        self.threads[thread].has = Has::Busy { stale: false };
        let (gate, _) = self.threads[thread].inside.as_ref().unwrap();
        gate.wait_for_arrival();
    }

    /// Somebody's idle instance has made room, and it is the pool that chooses whose.
    fn one_idle_has_gone(&mut self) {
        let is_there = |thread: usize| {
            let all = self.registry.snapshot().instances;
            all.iter().any(|instance| instance.owner.to_string().contains(&name(thread)))
        };
        let idle = (0..self.threads.len()).filter(|n| self.threads[*n].has == Has::Idle);
        let gone: Vec<_> = idle.filter(|n| !is_there(*n)).collect();
        assert_eq!(gone.len(), 1, "one makes the room: {:?}", self.script);
        self.threads[gone[0]].has = Has::Nothing;
    }

    /// A thread lets go. If somebody waits, its instance makes the room; so it does if it is stale.
    fn let_go(&mut self, thread: usize) {
        let Has::Busy { stale } = self.threads[thread].has else { unreachable!("it is inside") };
        let (gate, used) = self.threads[thread].inside.take().unwrap();
        gate.open();
        used.wait().unwrap();
        let next = self.line.pop_front();
        let stays = next.is_none() && !stale;
        self.threads[thread].has = if stays { Has::Idle } else { Has::Nothing };
        if let Some(next) = next {
            self.enters(next);
        }
    }

    /// One more asks, for no longer than a moment, while there is no room: it leaves nothing behind.
    fn asks_in_vain(&mut self, thread: usize) {
        let pool = self.pool.clone();
        let asked = self.threads[thread]
            .worker
            .run(move || pool.get_timeout(Duration::from_millis(3)).map(|guard| guard.look()));
        assert!(asked.unwrap_err().is_timeout(), "{:?}", self.script);
    }

    fn clear(&mut self) {
        self.pool.clear();
        for thread in &mut self.threads {
            thread.has = match thread.has {
                Has::Idle => Has::Nothing,
                Has::Busy { .. } => Has::Busy { stale: true },
                other => other,
            };
        }
    }

    /// A thread ends, and another takes its place.
    fn ends(&mut self, thread: usize) {
        let next = Worker::new(&name(thread));
        std::mem::replace(&mut self.threads[thread].worker, next).end();
        self.threads[thread].has = Has::Nothing;
    }

    #[track_caller]
    fn is_as_the_model_says(&self) {
        let busy = self.count(|has| matches!(has, Has::Busy { .. }));
        let idle = self.count(|has| has == Has::Idle);
        poll_until(&format!("{busy} busy, {idle} idle: {:?}", self.script), || {
            let status = self.pool.status();
            assert!(status.size <= self.max_size, "{status:?} after {:?}", self.script);
            // One that is inside and stale counts as closing.
            (status.busy + status.closing, status.idle) == (busy, idle)
                && (status.size, status.waiting) == (busy + idle, self.line.len())
        });
        for thread in &self.line {
            let (gate, _) = self.threads[*thread].inside.as_ref().unwrap();
            assert!(!gate.has_arrived(), "it has overtaken: {:?}", self.script);
        }
    }

    fn step(&mut self, rng: &mut Rng) {
        let thread = rng.below(self.threads.len() as u64) as usize;
        let what = rng.below(20);
        let (said, does): (&str, fn(&mut Self, usize)) = match self.threads[thread].has {
            _ if what == 0 => ("clears", |scene, _| scene.clear()),
            Has::Idle | Has::Nothing if what == 1 => ("ends", Self::ends),
            Has::Nothing if what < 5 && !self.line.is_empty() => ("in vain", Self::asks_in_vain),
            Has::Idle | Has::Nothing => ("asks", Self::ask),
            Has::Busy { .. } => ("lets go", Self::let_go),
            Has::Waits => return,
        };
        self.script.push(format!("{thread} {said}"));
        does(self, thread);
        self.is_as_the_model_says();
    }

    fn end(mut self) {
        while let Some(busy) =
            (0..self.threads.len()).find(|n| matches!(self.threads[*n].has, Has::Busy { .. }))
        {
            self.let_go(busy);
        }
        assert!(self.line.is_empty(), "somebody waits beside free room: {:?}", self.script);
        self.threads.into_iter().for_each(|thread| thread.worker.end());
        assert!(self.pool.close(PATIENCE).is_clean());
        self.stage.assert_each_closed_once();
    }
}

#[test]
fn room_is_made_as_a_small_model_makes_it() {
    let seed = std::env::var("SESSILE_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.map_or(1, |now| now.as_nanos() as u64)
    });
    eprintln!("SESSILE_SEED={seed}");
    let mut rng = Rng::new(seed);
    for _ in 0..40 {
        let (max_size, threads) = (1 + rng.below(3) as usize, 2 + rng.below(9) as usize);
        let mut scene = Scene::new(max_size, threads);
        (0..60).for_each(|_| scene.step(&mut rng));
        scene.end();
    }
}
