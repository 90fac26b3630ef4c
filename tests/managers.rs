//! Managers that are made, not written: of closures, and in a box.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use sessile::manager::CloseReason;
use sessile::{Manager, Pool, Registry, from_fn, try_from_fn};

const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn a_closure_makes_one_instance_for_each_thread() {
    let made = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&made);
    let pool = Pool::from_fn(move |_| {
        count.fetch_add(1, Ordering::SeqCst);
        (thread::current().id(), 0)
    });
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for round in 0..5 {
                    let (owner, uses) = pool
                        .with(|(owner, uses)| {
                            (*owner, {
                                *uses += 1;
                                *uses
                            })
                        })
                        .unwrap();
                    assert_eq!((owner, uses), (thread::current().id(), round + 1));
                }
            });
        }
    });
    assert_eq!(made.load(Ordering::SeqCst), 3);
}

#[test]
fn a_closure_may_make_what_is_not_send() {
    let pool = Pool::new_local(from_fn(|_| Rc::new(Cell::new(1))));
    pool.with_ref(|cell| cell.set(cell.get() + 1)).unwrap();
    assert_eq!(pool.with_ref(|cell| cell.get()).unwrap(), 2);
}

#[test]
fn a_closure_that_fails_is_tried_again_at_the_next_use() {
    let tries = AtomicUsize::new(0);
    let pool = Pool::try_from_fn(move |_| match tries.fetch_add(1, Ordering::SeqCst) {
        0 => Err(std::io::Error::other("not yet")),
        tried => Ok(tried),
    });
    let error = pool.with(|_| ()).unwrap_err();
    assert!(error.is_create_failed());
    assert_eq!(std::error::Error::source(&error).unwrap().to_string(), "not yet");
    assert_eq!(pool.with(|tried| *tried).unwrap(), 1);
}

#[test]
fn a_closures_instance_that_has_broken_is_closed_and_made_anew() {
    let (sender, closed) = mpsc::channel();
    let manager = from_fn(|cx| (cx.id(), false)).broken_if(|(_, broken)| *broken).close_with(
        move |(id, _), reason| {
            sender.send((id, reason))?;
            Ok(())
        },
    );
    let pool = Pool::new(manager);
    let first = pool.with(|(id, _)| *id).unwrap();
    assert_eq!(pool.with(|(id, _)| *id).unwrap(), first);
    pool.with(|(_, broken)| *broken = true).unwrap();
    assert_eq!(closed.try_recv().unwrap(), (first, CloseReason::Broken));
    assert_ne!(pool.with(|(id, _)| *id).unwrap(), first);
}

#[test]
fn only_broken_if_costs_a_call_after_a_use() {
    assert!(!from_fn(|_| 0).can_break());
    let other = try_from_fn(|_| Ok::<_, std::io::Error>(0))
        .valid_if(|_| true)
        .interrupt_with(|_| || ())
        .close_with(|_, _| Ok(()));
    assert!(!other.can_break());
    assert!(from_fn(|_| 0).broken_if(|_| false).can_break());
}

#[test]
fn a_closures_instance_is_checked_after_it_has_been_idle() {
    let (sender, closed) = mpsc::channel();
    let manager = from_fn(|cx| cx.id()).valid_if(|_| false).close_with(move |id, reason| {
        sender.send((id, reason))?;
        Ok(())
    });
    let pool = Pool::builder(manager).check_after(Duration::from_millis(1)).build().unwrap();
    let first = pool.with(|id| *id).unwrap();
    // It counts as idle once the reaper has seen it so, which a use takes back.
    let begun = Instant::now();
    while pool.with(|id| *id).unwrap() == first {
        assert!(begun.elapsed() < PATIENCE, "nobody asked whether it is valid");
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(closed.try_recv().unwrap(), (first, CloseReason::Invalid));
}

#[test]
fn a_close_interrupts_a_closures_instance_that_is_busy() {
    let manager = from_fn(|_| Arc::new(AtomicBool::new(false))).interrupt_with(|stop| {
        let stop = Arc::clone(stop);
        move || stop.store(true, Ordering::SeqCst)
    });
    let pool = Pool::builder(manager).registry(&Registry::new()).build().unwrap();
    let (sender, busy) = mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(|| {
            pool.with(|stop| {
                sender.send(()).unwrap();
                while !stop.load(Ordering::SeqCst) {
                    thread::yield_now();
                }
            })
        });
        busy.recv_timeout(PATIENCE).unwrap();
        // Half-way to the deadline it is asked to stop.
        let _ = pool.close(Duration::from_millis(200));
        assert!(pool.wait_closed(PATIENCE), "nobody asked it to stop");
    });
}

#[test]
fn a_closures_close_that_fails_is_in_the_report() {
    let manager = from_fn(|_| 0).close_with(|_, reason| anyhow::bail!("not now: {reason}"));
    let pool = Pool::builder(manager).registry(&Registry::new()).build().unwrap();
    pool.with(|_| ()).unwrap();
    let report = pool.close(PATIENCE);
    assert!(!report.is_clean());
    assert!(report.to_string().contains("not now: pool closed"), "{report}");
}

#[test]
fn a_manager_in_a_box_says_what_it_would_say_outside() {
    let (sender, closed) = mpsc::channel();
    let numbers = from_fn(|_| 1).broken_if(|n| *n == 0).close_with(move |n, reason| {
        sender.send((n, reason))?;
        Ok(())
    });
    let boxed: Box<dyn Manager<Instance = i32>> = Box::new(numbers);
    assert!(boxed.can_break());
    let pool = Pool::new(boxed);
    pool.with(|n| *n = 0).unwrap();
    assert_eq!(closed.try_recv().unwrap(), (0, CloseReason::Broken));
    assert_eq!(pool.with(|n| *n).unwrap(), 1);

    let plain: Box<dyn Manager<Instance = i32>> = Box::new(from_fn(|_| 1));
    assert!(!plain.can_break());
}

#[test]
fn pools_may_share_a_manager() {
    let made = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&made);
    let manager = Arc::new(from_fn(move |_| count.fetch_add(1, Ordering::SeqCst)));
    let (one, other) = (Pool::new(Arc::clone(&manager)), Pool::new(manager));
    assert_eq!((one.with(|n| *n).unwrap(), other.with(|n| *n).unwrap()), (0, 1));
}

#[cfg(feature = "_interpreter")]
mod engines {
    use std::collections::VecDeque;

    use sessile::CreateContext;
    use sessile::interpreter::{
        BoxInterpreter, ErrorInfo, ExecuteOptions, Execution, Interpreter, InterpreterError,
        Output, OutputRef, Variable, boxed,
    };
    use sessile::manager::InterruptHandle;

    use super::*;

    type Script = VecDeque<Result<Execution, InterpreterError>>;

    /// A double: it answers as its script says, which is what an agent's test needs.
    #[derive(Default)]
    struct Double {
        script: Script,
        dead: bool,
        interrupted: Arc<AtomicUsize>,
    }

    impl Interpreter for Double {
        fn execute_with(
            &mut self,
            _: &str,
            _: &ExecuteOptions,
            _: &mut dyn FnMut(OutputRef<'_>),
        ) -> Result<Execution, InterpreterError> {
            let outcome = self.script.pop_front().unwrap_or_else(|| Ok(Execution::default()));
            self.dead |= outcome.as_ref().is_err_and(InterpreterError::is_dead);
            outcome
        }

        fn reset(&mut self) -> Result<(), InterpreterError> {
            self.dead = false;
            Ok(())
        }

        fn is_alive(&self) -> bool {
            !self.dead
        }

        fn interrupt_handle(&self) -> InterruptHandle {
            let interrupted = Arc::clone(&self.interrupted);
            InterruptHandle::new(move || _ = interrupted.fetch_add(1, Ordering::SeqCst))
        }

        fn variables(&mut self, _: &ExecuteOptions) -> Result<Vec<Variable>, InterpreterError> {
            Ok(vec![Variable::new("n", "int", "42")])
        }
    }

    struct Doubles(mpsc::Sender<CloseReason>);

    impl Manager for Doubles {
        type Instance = Double;

        fn create(&self, _: &CreateContext) -> anyhow::Result<Double> {
            let mut failed = Execution::default();
            failed.error = Some(ErrorInfo::new("ValueError", "no", ""));
            let said = Output::Stdout { text: "half".to_owned() };
            let died = InterpreterError::died("exit code 3").with_outputs(vec![said]);
            let script = [Ok(failed), Err(InterpreterError::refused("too long")), Err(died)];
            Ok(Double { script: script.into(), ..Double::default() })
        }

        fn has_broken(&self, double: &mut Double) -> bool {
            double.dead
        }

        fn rescue(&self, double: &mut Double) -> bool {
            !double.dead
        }

        fn is_valid(&self, double: &mut Double) -> anyhow::Result<()> {
            anyhow::ensure!(!double.dead, "it is dead");
            Ok(())
        }

        fn interrupt(&self, double: &Double) -> Option<InterruptHandle> {
            Some(double.interrupt_handle())
        }

        fn close(&self, _: Double, reason: CloseReason) -> anyhow::Result<()> {
            Ok(self.0.send(reason)?)
        }
    }

    #[test]
    fn an_engine_in_a_box_is_replaced_once_it_has_died() {
        let (sender, closed) = mpsc::channel();
        let pool: Pool<BoxInterpreter> = Pool::new(boxed(Doubles(sender)));
        let run = || pool.with(|engine| engine.run("1")).unwrap();
        assert_eq!(run().unwrap().error.unwrap().name, "ValueError");
        assert!(run().unwrap_err().is_refused());
        assert!(closed.try_recv().is_err());
        let died = run().unwrap_err();
        assert!(died.is_dead() && died.outputs().len() == 1);
        assert_eq!(closed.try_recv().unwrap(), CloseReason::Broken);
        assert!(!run().unwrap().is_ok(), "a new one, with a script of its own");
    }

    #[test]
    fn an_engine_in_a_box_is_rescued_interrupted_and_closed_by_its_manager() {
        let (sender, closed) = mpsc::channel();
        let manager = boxed(Doubles(sender));
        let mut engine: BoxInterpreter = Box::<Double>::default();
        assert!(manager.rescue(&mut engine) && manager.is_valid(&mut engine).is_ok());
        let counted = Arc::new(AtomicUsize::new(0));
        let double = Double { interrupted: Arc::clone(&counted), dead: true, ..Double::default() };
        engine = Box::new(double);
        assert!(!manager.rescue(&mut engine) && manager.is_valid(&mut engine).is_err());
        assert!(manager.can_break() && manager.has_broken(&mut engine));
        manager.interrupt(&engine).unwrap().interrupt();
        assert_eq!(counted.load(Ordering::SeqCst), 1);
        manager.close(engine, CloseReason::Cleared).unwrap();
        assert_eq!(closed.try_recv().unwrap(), CloseReason::Cleared);
    }

    #[test]
    fn an_engine_of_another_kind_in_the_box_is_closed_by_dropping_it() {
        struct Other(Double, Arc<AtomicUsize>);
        impl Interpreter for Other {
            fn execute_with(
                &mut self,
                code: &str,
                options: &ExecuteOptions,
                on_output: &mut dyn FnMut(OutputRef<'_>),
            ) -> Result<Execution, InterpreterError> {
                self.0.execute_with(code, options, on_output)
            }
            fn reset(&mut self) -> Result<(), InterpreterError> {
                self.0.reset()
            }
            fn is_alive(&self) -> bool {
                self.0.is_alive()
            }
            fn interrupt_handle(&self) -> InterruptHandle {
                self.0.interrupt_handle()
            }
            fn variables(&mut self, _: &ExecuteOptions) -> Result<Vec<Variable>, InterpreterError> {
                Ok(Vec::new())
            }
        }
        impl Drop for Other {
            fn drop(&mut self) {
                self.1.fetch_add(1, Ordering::SeqCst);
            }
        }
        let (sender, closed) = mpsc::channel();
        let dropped = Arc::new(AtomicUsize::new(0));
        let pool = Pool::new(boxed(Doubles(sender)));
        let other = Other(Double { dead: true, ..Double::default() }, Arc::clone(&dropped));
        pool.with(|engine| *engine = Box::new(other)).unwrap();
        assert!(pool.close(PATIENCE).is_clean());
        assert_eq!(dropped.load(Ordering::SeqCst), 1);
        assert!(closed.try_recv().is_err());
    }
}
