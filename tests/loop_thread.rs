//! A thread with a loop and a state.

mod support;

use std::rc::Rc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use sessile::Registry;
use sessile::loop_thread::{LocalState, LoopThread};
use support::{FOR_EVER, PATIENCE, poll_until, promptly};

const SHORT: Duration = Duration::from_millis(50);

/// A state that tells when, and where, it is dropped.
struct Told {
    lines: Rc<Vec<u32>>,
    tell: mpsc::Sender<thread::ThreadId>,
}

impl Drop for Told {
    fn drop(&mut self) {
        let _ = self.tell.send(thread::current().id());
    }
}

#[test]
fn a_state_that_is_not_send_is_made_used_and_dropped_on_its_thread() {
    let (tell, told) = mpsc::channel();
    let made = LoopThread::spawn("told", move |_| Ok(Told { lines: Rc::new(vec![1]), tell }));
    let thread = made.unwrap();
    let handle = thread.handle();
    handle.post(|state| Rc::get_mut(&mut state.lines).unwrap().push(2)).unwrap();
    let (sum, id) = handle
        .call(|state| (state.lines.iter().sum::<u32>(), thread::current().id()))
        .unwrap()
        .join()
        .unwrap();
    assert_eq!(sum, 3);
    assert_ne!(id, thread::current().id());
    drop(thread);
    assert_eq!(told.recv_timeout(PATIENCE).unwrap(), id);
}

#[test]
fn what_was_posted_before_the_close_runs_and_what_comes_after_is_handed_back() {
    let (tell, told) = mpsc::channel();
    let thread = LoopThread::spawn("numbers", |_| Ok(())).unwrap();
    let handle = thread.handle();
    for n in 0..1000 {
        let tell = tell.clone();
        handle.post(move |()| tell.send(n).unwrap()).unwrap();
    }
    assert!(thread.close(PATIENCE));
    drop(tell);
    assert_eq!(told.iter().collect::<Vec<_>>(), Vec::from_iter(0..1000));
    let (word, refused) = ("kept".to_owned(), handle);
    let error = refused.call(move |()| word).unwrap_err();
    assert!(error.is_closed());
    assert_eq!(error.into_inner()(&mut ()), "kept");
    assert!(refused.is_closed());
    assert!(thread.close(Duration::ZERO), "closing twice does no harm");
}

#[test]
fn a_state_that_cannot_be_made_is_an_error_and_leaves_nothing() {
    let registry = Registry::new();
    let fails = LoopThread::<()>::builder("fails").registry(&registry);
    let error = fails.spawn(|_| anyhow::bail!("on purpose")).unwrap_err();
    assert_eq!(error.to_string(), "on purpose");
    let panics = LoopThread::<()>::builder("panics").registry(&registry);
    let error = panics.spawn(|_| panic!("on purpose")).unwrap_err();
    assert!(error.to_string().contains("on purpose"), "{error}");
    assert!(registry.snapshot().instances.is_empty());
}

#[test]
fn a_registry_lists_the_thread_and_closes_it() {
    let registry = Registry::new();
    let thread = LoopThread::builder("listed").registry(&registry).spawn(|_| Ok(1)).unwrap();
    let listed = registry.snapshot().instances;
    assert_eq!((listed.len(), &*listed[0].pool), (1, "listed"));
    let closes = registry.clone();
    assert!(promptly("it closes", move || closes.close_all(PATIENCE)).is_clean());
    assert!(thread.handle().post(|_| ()).unwrap_err().is_closed());
    assert!(thread.wait_closed(PATIENCE));
    assert!(registry.snapshot().instances.is_empty());
}

#[test]
fn a_state_takes_its_time_to_close_and_no_more_than_there_is() {
    fn slow(within: Duration) -> (bool, Vec<Duration>) {
        let (tell, told) = mpsc::channel();
        let thread = LoopThread::builder("slow")
            .on_close(move |_: &mut (), local, within| {
                tell.send(within).unwrap();
                let stops = local.clone();
                local.call_later(SHORT, move |()| stops.stop());
            })
            .spawn(|_| Ok(()))
            .unwrap();
        (thread.close(within), told.iter().collect())
    }
    assert_eq!(slow(PATIENCE), (true, vec![PATIENCE]), "it is begun once");
    assert_eq!(slow(Duration::ZERO), (true, vec![Duration::ZERO]));

    // One that never says that it is through.
    let hangs = LoopThread::builder("hangs").on_close(|_: &mut (), _, _| ());
    let hangs = hangs.spawn(|_| Ok(())).unwrap();
    assert!(promptly("it ends", move || hangs.close(SHORT)));
}

#[test]
fn a_later_close_brings_the_end_nearer() {
    let hangs = LoopThread::builder("hangs").on_close(|_: &mut (), _, _| ());
    let hangs = hangs.close_timeout(FOR_EVER).spawn(|_| Ok(())).unwrap();
    let registry = Registry::global();
    let id = registry.snapshot().instances.into_iter().find(|one| one.pool == "hangs").unwrap().id;
    assert!(registry.evict(id));
    poll_until("it is ordered closed", || {
        let listed = registry.snapshot().instances;
        listed.iter().any(|one| one.id == id && one.state.to_string() == "closing")
    });
    assert!(promptly("it ends", move || hangs.close(SHORT)));
}

#[test]
fn a_panic_in_a_callback_leaves_thread_and_state_as_they_are() {
    let thread = LoopThread::spawn("panics", |_| Ok(7)).unwrap();
    thread.handle().post(|_| panic!("on purpose")).unwrap();
    let panicked = thread.handle().call(|_| -> i32 { panic!("on purpose") }).unwrap();
    assert!(panicked.join().is_err());
    assert_eq!(thread.handle().call(|n| *n).unwrap().join().unwrap(), 7);
}

#[test]
fn a_thread_may_not_wait_for_itself() {
    let thread = LoopThread::spawn("itself", |_| Ok(())).unwrap();
    let handle = thread.handle();
    let own = handle.clone();
    let said = handle.call(move |()| own.call(|()| ()).unwrap().join().is_err()).unwrap();
    assert!(promptly("it is an error", move || said.join().unwrap()));
}

#[test]
fn timers_sources_and_futures_reach_the_state() {
    fn count(local: &LocalState<Vec<&'static str>>) -> anyhow::Result<()> {
        local.call_soon(|said| said.push("soon"));
        local.call_later(Duration::ZERO, |said| said.push("later"));
        let future = local.clone();
        local.spawn_local(async move { future.with(|said| said.push("future")) }).detach();
        Ok(())
    }
    let thread = LoopThread::spawn("all", |local| {
        count(local)?;
        Ok(Vec::new())
    });
    let thread = thread.unwrap();
    poll_until("all have run", || {
        thread.handle().call(|said| said.len()).unwrap().join().unwrap() == 3
    });
}
