//! What must not compile. Each example stands beside a twin that does compile and differs in one
//! word, so that nothing but the promise can be what failed. (Only nightly's rustdoc looks at the
//! error codes.)

/// A guard stays on the thread that borrowed.
///
/// ```compile_fail,E0277
/// # let pool = sessile::Pool::new(|_: &sessile::Context| Ok::<u8, std::io::Error>(0));
/// let guard = pool.get().unwrap();
/// std::thread::scope(|scope| {
///     scope.spawn(|| drop(guard));
/// });
/// ```
///
/// ```
/// # let pool = sessile::Pool::new(|_: &sessile::Context| Ok::<u8, std::io::Error>(0));
/// let guard = pool.clone();
/// std::thread::scope(|scope| {
///     scope.spawn(|| drop(guard));
/// });
/// ```
///
/// The shared one, too:
///
/// ```compile_fail,E0277
/// # let pool = sessile::Pool::new(|_: &sessile::Context| Ok::<u8, std::io::Error>(0));
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
/// share::<sessile::Ref<'static, u8>>();
/// ```
///
/// ```compile_fail,E0277
/// fn share<T: Sync>() {}
/// share::<sessile::RefMut<'static, u8>>();
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
/// # use sessile::{Context, Pool};
/// # fn spawn<F: Future + Send + 'static>(_: F) {}
/// let pool = Pool::new(|_: &Context| Ok::<u8, std::io::Error>(0));
/// spawn(async move {
///     let guard = pool.get().unwrap();
///     std::future::ready(()).await;
///     drop(guard);
/// });
/// ```
///
/// ```
/// # use sessile::{Context, Pool};
/// # fn spawn<F: Future + Send + 'static>(_: F) {}
/// let pool = Pool::new(|_: &Context| Ok::<u8, std::io::Error>(0));
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
/// let pool = sessile::Pool::new(|_: &sessile::Context| Ok::<Rc<u8>, std::io::Error>(Rc::new(0)));
/// ```
///
/// ```
/// use std::rc::Rc;
/// let pool = sessile::Pool::new_local(|_: &sessile::Context| Ok::<Rc<u8>, std::io::Error>(Rc::new(0)));
/// ```
///
/// As does `builder`:
///
/// ```compile_fail,E0277
/// use std::rc::Rc;
/// let pool = sessile::Pool::builder(|_: &sessile::Context| Ok::<Rc<u8>, std::io::Error>(Rc::new(0)));
/// ```
///
/// ```
/// use std::rc::Rc;
/// let pool = sessile::Pool::builder_local(|_: &sessile::Context| Ok::<Rc<u8>, std::io::Error>(Rc::new(0)));
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
/// send::<sessile::RefMut<'static, std::rc::Rc<u8>>>();
/// ```
struct PoolsTravel;

/// A reference to the instance cannot leave `with`.
///
/// ```compile_fail
/// # let pool = sessile::Pool::new(|_: &sessile::Context| Ok::<u8, std::io::Error>(0));
/// let escaped = pool.with(|n: &mut u8| &*n).unwrap();
/// ```
///
/// ```
/// # let pool = sessile::Pool::new(|_: &sessile::Context| Ok::<u8, std::io::Error>(0));
/// let escaped = pool.with(|n: &mut u8| *n).unwrap();
/// ```
///
/// Not by another way out either:
///
/// ```compile_fail,E0521
/// # let pool = sessile::Pool::new(|_: &sessile::Context| Ok::<u8, std::io::Error>(0));
/// let mut escaped = None;
/// pool.with_ref(|n: &u8| escaped = Some(n)).unwrap();
/// ```
///
/// ```
/// # let pool = sessile::Pool::new(|_: &sessile::Context| Ok::<u8, std::io::Error>(0));
/// let mut escaped = None;
/// pool.with_ref(|n: &u8| escaped = Some(*n)).unwrap();
/// ```
// The first has no code of its own: rustc reports "lifetime may not live long enough".
struct ReferencesStayInside;

/// A guard does not outlive its pool, nor a reference its guard.
///
/// ```compile_fail,E0505
/// # let pool = sessile::Pool::new(|_: &sessile::Context| Ok::<u8, std::io::Error>(0));
/// let guard = pool.get().unwrap();
/// drop(pool);
/// drop(guard);
/// ```
///
/// ```
/// # let pool = sessile::Pool::new(|_: &sessile::Context| Ok::<u8, std::io::Error>(0));
/// let guard = pool.clone();
/// drop(pool);
/// drop(guard);
/// ```
///
/// ```compile_fail,E0505
/// # let pool = sessile::Pool::new(|_: &sessile::Context| Ok::<u8, std::io::Error>(0));
/// let guard = pool.get().unwrap();
/// let n: &u8 = &guard;
/// sessile::RefMut::discard(guard);
/// assert_eq!(*n, 0);
/// ```
///
/// ```
/// # let pool = sessile::Pool::new(|_: &sessile::Context| Ok::<u8, std::io::Error>(0));
/// let guard = pool.get().unwrap();
/// let n: u8 = *guard;
/// sessile::RefMut::discard(guard);
/// assert_eq!(n, 0);
/// ```
struct GuardsAreShortLived;

/// Shared access is shared.
///
/// ```compile_fail,E0594
/// # let pool = sessile::Pool::new(|_: &sessile::Context| Ok::<u8, std::io::Error>(0));
/// pool.with_ref(|n| *n += 1).unwrap();
/// ```
///
/// ```
/// # let pool = sessile::Pool::new(|_: &sessile::Context| Ok::<u8, std::io::Error>(0));
/// pool.with(|n| *n += 1).unwrap();
/// ```
///
/// ```compile_fail,E0594
/// # let pool = sessile::Pool::new(|_: &sessile::Context| Ok::<u8, std::io::Error>(0));
/// *pool.get_ref().unwrap() += 1;
/// ```
///
/// ```
/// # let pool = sessile::Pool::new(|_: &sessile::Context| Ok::<u8, std::io::Error>(0));
/// *pool.get().unwrap() += 1;
/// ```
struct SharedIsShared;

/// Instances outlive every borrow of their maker's: they end with their thread.
///
/// ```compile_fail,E0597
/// # use sessile::{Context, Pool};
/// let text: String = String::new();
/// let pool: Pool<&str> = Pool::new(|_: &Context| Ok::<_, std::io::Error>(""));
/// *pool.get().unwrap() = &text;
/// ```
///
/// ```
/// # use sessile::{Context, Pool};
/// static text: String = String::new();
/// let pool: Pool<&str> = Pool::new(|_: &Context| Ok::<_, std::io::Error>(""));
/// *pool.get().unwrap() = &text;
/// ```
///
/// What a manager holds it owns:
///
/// ```compile_fail,E0373
/// # use sessile::{Context, Pool};
/// let text = String::from("seed");
/// let pool = Pool::new(|_: &Context| Ok::<_, std::io::Error>(text.clone()));
/// ```
///
/// ```
/// # use sessile::{Context, Pool};
/// let text = String::from("seed");
/// let pool = Pool::new(move |_: &Context| Ok::<_, std::io::Error>(text.clone()));
/// ```
struct InstancesOwnWhatTheyHold;

/// A guard lends the instance under its own type: under a narrower one, somebody could put in what
/// the pool's own users must not find there.
///
/// ```compile_fail
/// # use sessile::RefMut;
/// type Wide = for<'a> fn(&'a u8);
/// type Narrow = fn(&'static u8);
/// fn narrow<'p>(guard: RefMut<'p, Wide>) -> RefMut<'p, Narrow> { guard }
/// ```
///
/// ```
/// # use sessile::RefMut;
/// type Wide = for<'a> fn(&'a u8);
/// type Narrow = fn(&'static u8);
/// fn narrow<'p>(guard: RefMut<'p, Wide>) -> RefMut<'p, Wide> { guard }
/// ```
struct GuardsAreInvariant;
