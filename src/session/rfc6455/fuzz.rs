//! What the fuzz targets drive of this module.

use std::io::{self, Read};

use super::connect_error::Problem;
use super::head;
use super::target::Target;

/// Gives one piece after the other, and then ends.
struct Pieces<'a>(Vec<&'a [u8]>);

impl Read for Pieces<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.retain(|piece| !piece.is_empty());
        let Some(first) = self.0.first_mut() else { return Ok(0) };
        first.read(buf)
    }
}

/// What a head is read as, in words, and what comes after it.
pub(crate) fn head(is_answer: bool, pieces: &[&[u8]]) -> Option<(String, Vec<u8>)> {
    let mut stream = Pieces(pieces.to_vec());
    let rest_of = |mut rest: Vec<u8>, mut stream: Pieces<'_>| {
        stream.read_to_end(&mut rest).expect("it does not fail");
        rest
    };
    if is_answer {
        let (answer, rest) = head::read_answer(&mut stream).ok()?;
        let words = format!("{} {:?}", answer.status, answer.fields);
        let rest = rest_of(rest, stream);
        let (refused, whole) = (Pieces(vec![&rest]), rest.clone());
        let Problem::Refused(refusal) = head::refusal(&mut { refused }, answer, Vec::new(), &[])
        else {
            unreachable!("it is one")
        };
        assert!(refusal.body.len() <= 3 << 10, "more is kept than there is to tell");
        assert!(refusal.to_string().lines().count() <= 1, "it tears a log");
        return Some((words, whole));
    }
    #[cfg(all(feature = "duplex", unix))]
    {
        let (asked, rest) = head::read_request(&mut stream).ok()?;
        let words = format!("{} {} {:?}", asked.method, asked.resource, asked.fields);
        return Some((words, rest_of(rest, stream)));
    }
    #[cfg(not(all(feature = "duplex", unix)))]
    None
}

/// A URL goes into the head of a request: it must not tear it.
pub(crate) fn url(text: &str) {
    let Ok(target) = Target::of(text, "ws", "wss") else { return };
    for part in [target.authority(), &*target.resource(), &*target.to_string()] {
        assert!(part.bytes().all(|byte| byte.is_ascii_graphic()), "{part:?} of {text:?}");
    }
    if let Some(credentials) = &target.credentials {
        super::header("authorization", credentials).expect("it is fit for a header");
    }
}
