//! Foreign code that must not unwind into ours.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// The message of a panic, if it is a text, as that of `panic!` is.
pub(crate) fn panic_message(payload: &(dyn Any + Send)) -> Option<&str> {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str))
}

/// Runs foreign code; a panic in it becomes an error that tells its message.
pub(crate) fn contain<R>(run: impl FnOnce() -> R) -> anyhow::Result<R> {
    catch_unwind(AssertUnwindSafe(run)).map_err(|payload| {
        let message = panic_message(&*payload).map(str::to_owned);
        // What a payload does when dropped is foreign code once more.
        if let Err(another) = catch_unwind(AssertUnwindSafe(move || drop(payload))) {
            std::mem::forget(another);
        }
        match message {
            Some(message) => anyhow::anyhow!("panicked: {message}"),
            None => anyhow::anyhow!("panicked"),
        }
    })
}

/// Drops foreign things one by one, so that one that panics does not take the others with it.
pub(crate) fn drop_each<I>(things: impl IntoIterator<Item = I>) {
    things.into_iter().for_each(|thing| drop(contain(|| drop(thing))));
}
