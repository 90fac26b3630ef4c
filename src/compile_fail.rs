//! What must not compile. Each example stands beside a twin that does compile and differs in one
//! word, so that nothing but the promise can be what failed. (Only nightly's rustdoc looks at the
//! error codes.)

/// A guard stays on the thread that borrowed.
///
/// ```compile_fail,E0277
/// # let pool = sessile::Pool::from_fn(|_| 0_u8);
/// let guard = pool.get().unwrap();
/// std::thread::scope(|scope| {
///     scope.spawn(|| drop(guard));
/// });
/// ```
///
/// ```
/// # let pool = sessile::Pool::from_fn(|_| 0_u8);
/// let guard = pool.clone();
/// std::thread::scope(|scope| {
///     scope.spawn(|| drop(guard));
/// });
/// ```
///
/// The shared one, too:
///
/// ```compile_fail,E0277
/// # let pool = sessile::Pool::from_fn(|_| 0_u8);
/// let guard = pool.get_ref().unwrap();
/// std::thread::scope(|scope| {
///     scope.spawn(|| drop(guard));
/// });
/// ```
///
/// Nor may another thread look at it from afar:
///
/// ```compile_fail,E0277
/// fn share<T: Sync>() {}
/// share::<sessile::pool::Ref<'static, u8>>();
/// ```
///
/// ```compile_fail,E0277
/// fn share<T: Sync>() {}
/// share::<sessile::pool::RefMut<'static, u8>>();
/// ```
///
/// ```
/// fn share<T: Sync>() {}
/// share::<sessile::Pool<u8>>();
/// ```
struct GuardsStayHome;

/// A guard cannot live across an `.await` of a task that may change threads.
///
/// ```compile_fail
/// # use sessile::Pool;
/// # fn spawn<F: Future + Send + 'static>(_: F) {}
/// let pool = Pool::from_fn(|_| 0_u8);
/// spawn(async move {
///     let guard = pool.get().unwrap();
///     std::future::ready(()).await;
///     drop(guard);
/// });
/// ```
///
/// ```
/// # use sessile::Pool;
/// # fn spawn<F: Future + Send + 'static>(_: F) {}
/// let pool = Pool::from_fn(|_| 0_u8);
/// spawn(async move {
///     let guard = pool.clone();
///     std::future::ready(()).await;
///     drop(guard);
/// });
/// ```
// It has no code of its own: rustc reports "future cannot be sent between threads safely".
struct GuardsDoNotAwait;

/// `new` asks for instances that others may close: `Send` ones.
///
/// ```compile_fail,E0277
/// use std::rc::Rc;
/// let pool = sessile::Pool::from_fn(|_| Rc::new(0));
/// ```
///
/// ```
/// use std::rc::Rc;
/// let pool = sessile::Pool::new_local(sessile::from_fn(|_| Rc::new(0)));
/// ```
///
/// As does `builder`:
///
/// ```compile_fail,E0277
/// use std::rc::Rc;
/// let pool = sessile::Pool::builder(sessile::from_fn(|_| Rc::new(0)));
/// ```
///
/// ```
/// use std::rc::Rc;
/// let pool = sessile::Pool::builder_local(sessile::from_fn(|_| Rc::new(0)));
/// ```
struct LocalInstancesAreSaidToBe;

/// The pool of such instances may go anywhere nevertheless; a value of theirs may not.
///
/// ```
/// fn send<T: Send + Sync>() {}
/// send::<sessile::Pool<std::rc::Rc<u8>>>();
/// ```
///
/// ```compile_fail,E0277
/// fn send<T: Send + Sync>() {}
/// send::<sessile::pool::RefMut<'static, std::rc::Rc<u8>>>();
/// ```
struct PoolsTravel;

/// A reference to the instance cannot leave `with`.
///
/// ```compile_fail
/// # let pool = sessile::Pool::from_fn(|_| 0_u8);
/// let escaped = pool.with(|n: &mut u8| &*n).unwrap();
/// ```
///
/// ```
/// # let pool = sessile::Pool::from_fn(|_| 0_u8);
/// let escaped = pool.with(|n: &mut u8| *n).unwrap();
/// ```
///
/// Not by another way out either:
///
/// ```compile_fail,E0521
/// # let pool = sessile::Pool::from_fn(|_| 0_u8);
/// let mut escaped = None;
/// pool.with_ref(|n: &u8| escaped = Some(n)).unwrap();
/// ```
///
/// ```
/// # let pool = sessile::Pool::from_fn(|_| 0_u8);
/// let mut escaped = None;
/// pool.with_ref(|n: &u8| escaped = Some(*n)).unwrap();
/// ```
// The first has no code of its own: rustc reports "lifetime may not live long enough".
struct ReferencesStayInside;

/// A guard does not outlive its pool, nor a reference its guard.
///
/// ```compile_fail,E0505
/// # let pool = sessile::Pool::from_fn(|_| 0_u8);
/// let guard = pool.get().unwrap();
/// drop(pool);
/// drop(guard);
/// ```
///
/// ```
/// # let pool = sessile::Pool::from_fn(|_| 0_u8);
/// let guard = pool.clone();
/// drop(pool);
/// drop(guard);
/// ```
///
/// ```compile_fail,E0505
/// # let pool = sessile::Pool::from_fn(|_| 0_u8);
/// let guard = pool.get().unwrap();
/// let n: &u8 = &guard;
/// sessile::pool::RefMut::discard(guard);
/// assert_eq!(*n, 0);
/// ```
///
/// ```
/// # let pool = sessile::Pool::from_fn(|_| 0_u8);
/// let guard = pool.get().unwrap();
/// let n: u8 = *guard;
/// sessile::pool::RefMut::discard(guard);
/// assert_eq!(n, 0);
/// ```
struct GuardsAreShortLived;

/// Shared access is shared.
///
/// ```compile_fail,E0594
/// # let pool = sessile::Pool::from_fn(|_| 0_u8);
/// pool.with_ref(|n| *n += 1).unwrap();
/// ```
///
/// ```
/// # let pool = sessile::Pool::from_fn(|_| 0_u8);
/// pool.with(|n| *n += 1).unwrap();
/// ```
///
/// ```compile_fail,E0594
/// # let pool = sessile::Pool::from_fn(|_| 0_u8);
/// *pool.get_ref().unwrap() += 1;
/// ```
///
/// ```
/// # let pool = sessile::Pool::from_fn(|_| 0_u8);
/// *pool.get().unwrap() += 1;
/// ```
struct SharedIsShared;

/// Instances outlive every borrow of their maker's: they end with their thread.
///
/// ```compile_fail,E0597
/// # use sessile::Pool;
/// let text: String = String::new();
/// let pool: Pool<&str> = Pool::from_fn(|_| "");
/// *pool.get().unwrap() = &text;
/// ```
///
/// ```
/// # use sessile::Pool;
/// static text: String = String::new();
/// let pool: Pool<&str> = Pool::from_fn(|_| "");
/// *pool.get().unwrap() = &text;
/// ```
///
/// What a manager holds it owns:
///
/// ```compile_fail,E0373
/// # use sessile::Pool;
/// let text = String::from("seed");
/// let pool = Pool::from_fn(|_| text.clone());
/// ```
///
/// ```
/// # use sessile::Pool;
/// let text = String::from("seed");
/// let pool = Pool::from_fn(move |_| text.clone());
/// ```
struct InstancesOwnWhatTheyHold;

/// A guard lends the instance under its own type: under a narrower one, somebody could put in what
/// the pool's own users must not find there.
///
/// ```compile_fail
/// # use sessile::pool::RefMut;
/// type Wide = for<'a> fn(&'a u8);
/// type Narrow = fn(&'static u8);
/// fn narrow<'p>(guard: RefMut<'p, Wide>) -> RefMut<'p, Narrow> { guard }
/// ```
///
/// ```
/// # use sessile::pool::RefMut;
/// type Wide = for<'a> fn(&'a u8);
/// type Narrow = fn(&'static u8);
/// fn narrow<'p>(guard: RefMut<'p, Wide>) -> RefMut<'p, Wide> { guard }
/// ```
struct GuardsAreInvariant;

/// A loop stays on its thread, and what only its thread may do cannot be asked for elsewhere.
///
/// ```compile_fail,E0277
/// let event_loop = sessile::EventLoop::new();
/// let leaves = event_loop;
/// std::thread::spawn(move || drop(leaves));
/// ```
///
/// ```
/// let event_loop = sessile::EventLoop::new();
/// let leaves = event_loop.handle();
/// std::thread::spawn(move || drop(leaves));
/// ```
///
/// Nor from afar:
///
/// ```compile_fail,E0277
/// fn share<T: Sync>() {}
/// share::<sessile::EventLoop>();
/// ```
///
/// ```compile_fail,E0277
/// fn share<T: Sync>() {}
/// share::<sessile::event_loop::LocalHandle>();
/// ```
///
/// ```
/// fn share<T: Sync>() {}
/// share::<sessile::event_loop::Handle>();
/// ```
///
/// Neither does a callback that is to be cancelled, nor a source:
///
/// ```compile_fail,E0277
/// fn send<T: Send>() {}
/// send::<sessile::event_loop::Scheduled>();
/// ```
///
/// ```compile_fail,E0277
/// fn send<T: Send>() {}
/// send::<sessile::event_loop::Source<std::net::TcpStream>>();
/// ```
///
/// ```
/// fn send<T: Send>() {}
/// send::<std::net::TcpStream>();
/// send::<sessile::event_loop::Interest>();
/// ```
struct LoopsStayHome;

/// Everybody's handle has none of the owner's verbs, which do not wake. (`call_soon` is in its own
/// documentation.)
///
/// ```compile_fail,E0599
/// # use std::time::Duration;
/// # let event_loop = sessile::EventLoop::new();
/// event_loop.handle().call_later(Duration::ZERO, || ());
/// ```
///
/// ```
/// # use std::time::Duration;
/// # let event_loop = sessile::EventLoop::new();
/// event_loop.local().call_later(Duration::ZERO, || ());
/// ```
///
/// ```compile_fail,E0599
/// # let event_loop = sessile::EventLoop::new();
/// event_loop.handle().call_at(std::time::Instant::now(), || ());
/// ```
///
/// ```
/// # let event_loop = sessile::EventLoop::new();
/// event_loop.local().call_at(std::time::Instant::now(), || ());
/// ```
///
/// ```compile_fail,E0599
/// # let event_loop = sessile::EventLoop::new();
/// event_loop.handle().spawn_local(async {}).detach();
/// ```
///
/// ```
/// # let event_loop = sessile::EventLoop::new();
/// event_loop.local().spawn_local(async {}).detach();
/// ```
///
/// ```compile_fail,E0599
/// # use sessile::event_loop::Interest;
/// # let event_loop = sessile::EventLoop::new();
/// # let (reader, _writer) = std::io::pipe().unwrap();
/// drop(event_loop.handle().add(reader, Interest::READABLE, |_, _| ()));
/// ```
///
/// ```
/// # use sessile::event_loop::Interest;
/// # let event_loop = sessile::EventLoop::new();
/// # let (reader, _writer) = std::io::pipe().unwrap();
/// drop(event_loop.local().add(reader, Interest::READABLE, |_, _| ()));
/// ```
///
/// And the owner's has none of everybody's: its thread is awake, and must not wait for itself.
///
/// ```compile_fail,E0599
/// # let event_loop = sessile::EventLoop::new();
/// drop(event_loop.local().call_soon_threadsafe(|| ()));
/// ```
///
/// ```
/// # let event_loop = sessile::EventLoop::new();
/// drop(event_loop.handle().call_soon_threadsafe(|| ()));
/// ```
///
/// ```compile_fail,E0599
/// # let event_loop = sessile::EventLoop::new();
/// drop(event_loop.local().call(|| ()));
/// ```
///
/// ```
/// # let event_loop = sessile::EventLoop::new();
/// drop(event_loop.handle().call(|| ()));
/// ```
struct EachHandleHasItsVerbs;

/// What is posted crosses threads, and outlives who posted it.
///
/// ```compile_fail,E0277
/// use std::rc::Rc as Shared;
/// # let event_loop = sessile::EventLoop::new();
/// let n = Shared::new(0);
/// event_loop.handle().call_soon_threadsafe(move || drop(n)).unwrap();
/// ```
///
/// ```
/// use std::sync::Arc as Shared;
/// # let event_loop = sessile::EventLoop::new();
/// let n = Shared::new(0);
/// event_loop.handle().call_soon_threadsafe(move || drop(n)).unwrap();
/// ```
///
/// ```compile_fail,E0277
/// use std::rc::Rc as Shared;
/// # let event_loop = sessile::EventLoop::new();
/// let n = Shared::new(0);
/// event_loop.handle().call(move || drop(n)).unwrap().detach();
/// ```
///
/// ```
/// use std::sync::Arc as Shared;
/// # let event_loop = sessile::EventLoop::new();
/// let n = Shared::new(0);
/// event_loop.handle().call(move || drop(n)).unwrap().detach();
/// ```
///
/// So does the answer:
///
/// ```compile_fail,E0277
/// use std::rc::Rc as Shared;
/// # let event_loop = sessile::EventLoop::new();
/// event_loop.handle().call(|| Shared::new(0)).unwrap().detach();
/// ```
///
/// ```
/// use std::sync::Arc as Shared;
/// # let event_loop = sessile::EventLoop::new();
/// event_loop.handle().call(|| Shared::new(0)).unwrap().detach();
/// ```
///
/// ```compile_fail,E0373
/// # let event_loop = sessile::EventLoop::new();
/// let n = 0;
/// event_loop.handle().call_soon_threadsafe(|| assert_eq!(n, 0)).unwrap();
/// ```
///
/// ```
/// # let event_loop = sessile::EventLoop::new();
/// let n = 0;
/// event_loop.handle().call_soon_threadsafe(move || assert_eq!(n, 0)).unwrap();
/// ```
struct PostCrossesThreads;

/// A future on a loop may have an output that stays there; then its handle stays as well.
///
/// ```compile_fail,E0277
/// use std::rc::Rc as Shared;
/// # let event_loop = sessile::EventLoop::new();
/// let handle = event_loop.local().spawn_local(async { Shared::new(0) });
/// std::thread::spawn(move || drop(handle));
/// ```
///
/// ```
/// use std::sync::Arc as Shared;
/// # let event_loop = sessile::EventLoop::new();
/// let handle = event_loop.local().spawn_local(async { Shared::new(0) });
/// std::thread::spawn(move || drop(handle));
/// ```
///
/// There is one result, for one who takes it:
///
/// ```compile_fail,E0382
/// # let event_loop = sessile::EventLoop::new();
/// let handle = event_loop.handle().call(|| 7).unwrap();
/// event_loop.run_until(&handle).unwrap();
/// drop(handle.join());
/// drop(handle.join());
/// ```
///
/// ```
/// # let event_loop = sessile::EventLoop::new();
/// let handle = event_loop.handle().call(|| 7).unwrap();
/// event_loop.run_until(&handle).unwrap();
/// drop(handle.cancel());
/// drop(handle.join());
/// ```
struct HandlesGoWhereTheirResultsMay;

/// What is given to workers crosses threads, and so does what comes of it; whatever the instance is.
///
/// ```compile_fail,E0277
/// use std::rc::Rc as Shared;
/// # use sessile::{Pool, Workers, from_fn};
/// # let pool = Pool::builder(from_fn(|_| 0_u8));
/// # let workers = Workers::builder(pool).threads(1).build().unwrap();
/// let n = Shared::new(0);
/// workers.submit(move |_| drop(n)).unwrap().detach();
/// ```
///
/// ```
/// use std::sync::Arc as Shared;
/// # use sessile::{Pool, Workers, from_fn};
/// # let pool = Pool::builder(from_fn(|_| 0_u8));
/// # let workers = Workers::builder(pool).threads(1).build().unwrap();
/// let n = Shared::new(0);
/// workers.submit(move |_| drop(n)).unwrap().detach();
/// ```
///
/// ```compile_fail,E0277
/// use std::rc::Rc as Shared;
/// # use sessile::{Pool, Workers, from_fn};
/// # let pool = Pool::builder_local(from_fn(|_| Shared::new(0)));
/// # let workers = Workers::builder(pool).threads(1).build().unwrap();
/// workers.keyed("alice".to_owned()).submit(|n| n.clone()).unwrap().detach();
/// ```
///
/// ```
/// use std::sync::Arc as Shared;
/// # use sessile::{Pool, Workers, from_fn};
/// # let pool = Pool::builder_local(from_fn(|_| Shared::new(0)));
/// # let workers = Workers::builder(pool).threads(1).build().unwrap();
/// workers.keyed("alice".to_owned()).submit(|n| n.clone()).unwrap().detach();
/// ```
///
/// The workers themselves may go anywhere, with instances that may not:
///
/// ```
/// fn send<T: Send + Sync>() {}
/// send::<sessile::Workers<std::rc::Rc<u8>>>();
/// ```
///
/// Keys are seen by all threads:
///
/// ```compile_fail,E0277
/// use std::rc::Rc as Shared;
/// # use sessile::{Pool, Workers, from_fn};
/// # let pool = Pool::builder(from_fn(|_| 0_u8));
/// let workers = Workers::builder(pool).threads(1).build_keyed::<Shared<str>>().unwrap();
/// ```
///
/// ```
/// use std::sync::Arc as Shared;
/// # use sessile::{Pool, Workers, from_fn};
/// # let pool = Pool::builder(from_fn(|_| 0_u8));
/// let workers = Workers::builder(pool).threads(1).build_keyed::<Shared<str>>().unwrap();
/// ```
///
/// Work for every worker is there as often as there are workers:
///
/// ```compile_fail,E0277
/// # use sessile::{Pool, Workers, from_fn};
/// # let pool = Pool::builder(from_fn(|_| 0_u8));
/// # let workers = Workers::builder(pool).threads(1).build().unwrap();
/// let once = Box::new(|| ()) as Box<dyn FnOnce() + Send>;
/// drop(workers.broadcast(move |_| drop(once)));
/// ```
///
/// ```
/// # use sessile::{Pool, Workers, from_fn};
/// # let pool = Pool::builder(from_fn(|_| 0_u8));
/// # let workers = Workers::builder(pool).threads(1).build().unwrap();
/// let once = Box::new(|| ()) as Box<dyn FnOnce() + Send>;
/// drop(workers.submit(move |_| drop(once)));
/// ```
struct WorkCrossesThreads;

/// A worker's instance stays inside its work.
///
/// ```compile_fail
/// # use sessile::{Pool, Workers, from_fn};
/// # let pool = Pool::builder(from_fn(|_| 0_u8));
/// # let workers = Workers::builder(pool).threads(1).build().unwrap();
/// workers.submit(|n: &mut u8| &*n).unwrap().detach();
/// ```
///
/// ```
/// # use sessile::{Pool, Workers, from_fn};
/// # let pool = Pool::builder(from_fn(|_| 0_u8));
/// # let workers = Workers::builder(pool).threads(1).build().unwrap();
/// workers.submit(|n: &mut u8| *n).unwrap().detach();
/// ```
// It has no code of its own: rustc reports "lifetime may not live long enough".
struct WorkersInstancesStayInside;

/// Threads cannot share an interpreter, which is how their answers would cross.
///
/// ```compile_fail,E0277
/// use std::sync::Arc;
/// use sessile::interpreter::{Interpreter, monty::Monty};
///
/// let shared = Arc::new(Monty::start());
/// let theirs = Arc::clone(&shared);
/// std::thread::spawn(move || theirs.run("x = 1"));
/// shared.run("x = 2").unwrap();
/// ```
///
/// ```compile_fail,E0499
/// use sessile::interpreter::{Interpreter, monty::Monty};
///
/// let mut shared = Monty::start();
/// std::thread::scope(|scope| {
///     scope.spawn(|| shared.run("x = 1"));
///     scope.spawn(|| shared.run("x = 2"));
/// });
/// ```
///
/// Each has its own:
///
/// ```
/// use sessile::Pool;
/// use sessile::interpreter::{Interpreter, monty::{Monty, MontyManager}};
///
/// let pool = Pool::builder(MontyManager::new()).build().unwrap();
/// std::thread::scope(|scope| {
///     scope.spawn(|| pool.with(|python: &mut Monty| python.run("x = 1")));
///     scope.spawn(|| pool.with(|python: &mut Monty| python.run("x = 2")));
/// });
/// ```
#[cfg(feature = "monty")]
struct InterpretersAreNotShared;

/// Whatever the engine is, and even if it were `Sync`: to run a cell is to have it alone.
///
/// ```compile_fail,E0596
/// use std::sync::Arc;
/// use sessile::interpreter::Interpreter;
///
/// fn share(shared: Arc<impl Interpreter + Send + Sync + 'static>) {
///     let mut theirs = Arc::clone(&shared);
///     std::thread::spawn(move || drop(theirs.run("x = 1")));
/// }
/// ```
///
/// ```compile_fail,E0499
/// use sessile::interpreter::Interpreter;
///
/// fn share(mut shared: impl Interpreter + Send + Sync) {
///     std::thread::scope(|scope| {
///         scope.spawn(|| drop(shared.run("x = 1")));
///         scope.spawn(|| drop(shared.run("x = 2")));
///     });
/// }
/// ```
///
/// Two are two:
///
/// ```
/// use sessile::interpreter::Interpreter;
///
/// fn each<I: Interpreter + Send>(mut one: I, mut other: I) {
///     std::thread::scope(|scope| {
///         scope.spawn(|| drop(one.run("x = 1")));
///         scope.spawn(|| drop(other.run("x = 2")));
///     });
/// }
/// ```
#[cfg(feature = "_interpreter")]
struct NoEngineIsShared;
