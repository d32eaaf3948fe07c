//! Pages of lists whose order changes as usage is recorded (docs/adr/0009): all pages are of the
//! moment of the first one, and the token says how far they got.

use tokenmeter_api::page::{self, WrongToken};
use tokenmeter_store::ledger::reports::{Listed, Moment, Page};

use crate::error::Error;

/// One page to read.
pub(crate) struct Paging {
    /// What binds tokens to the list and its filters.
    filters: String,
    /// As of when; none on the first page.
    as_of: Option<Moment>,
    /// The server's clock at the first page, in microseconds since the Unix epoch.
    pub(crate) now_us: i64,
    skip: i64,
    size: usize,
}

impl Paging {
    /// Reads what a request says about its page.
    ///
    /// # Errors
    /// A page size out of bounds, or a token of another list.
    pub(crate) fn new(
        filters: String,
        page_size: i32,
        page_token: &str,
        now_us: i64,
    ) -> Result<Self, Error> {
        let size = page::size(page_size)?;
        let mut paging = Self {
            filters,
            as_of: None,
            now_us,
            skip: 0,
            size,
        };
        if let Some(end) = page::read(&paging.filters, page_token)? {
            let numbers: Vec<i64> = end
                .split('.')
                .map(str::parse)
                .collect::<Result<_, _>>()
                .map_err(|_| WrongToken)?;
            let [position, item, now_us, skip] = numbers[..] else {
                return Err(WrongToken.into());
            };
            if skip < 0 {
                return Err(WrongToken.into());
            }
            paging.as_of = Some(Moment { position, item });
            (paging.now_us, paging.skip) = (now_us, skip);
        }
        Ok(paging)
    }

    /// The entries to ask for: one more than the page tells whether there is a next one.
    pub(crate) fn page(&self) -> Page {
        Page {
            as_of: self.as_of,
            skip: self.skip,
            limit: count(self.size).saturating_add(1),
        }
    }

    /// The page's entries, and the token of the next page, if any.
    pub(crate) fn cut<T>(&self, listed: Listed<T>) -> (Vec<T>, Option<String>) {
        let Listed { mut entries, as_of } = listed;
        let more = entries.len() > self.size;
        entries.truncate(self.size);
        let next = more.then(|| {
            let read = self.skip.saturating_add(count(self.size));
            let end = format!("{}.{}.{}.{read}", as_of.position, as_of.item, self.now_us);
            page::token(&self.filters, &end)
        });
        (entries, next)
    }
}

/// A number of entries, at most a thousand and one.
fn count(size: usize) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paging(token: &str) -> Result<Paging, Error> {
        Paging::new("list".into(), 2, token, 9)
    }

    #[test]
    fn all_pages_are_of_the_moment_of_the_first() {
        let first = paging("").unwrap();
        assert_eq!((first.page().as_of, first.page().limit), (None, 3));
        let as_of = Moment {
            position: 7,
            item: 3,
        };
        let (entries, next) = first.cut(Listed {
            entries: vec!['a', 'b', 'c'],
            as_of,
        });
        assert_eq!(entries, ['a', 'b']);
        let second = Paging::new("list".into(), 2, &next.unwrap(), 1_000).unwrap();
        assert_eq!(second.now_us, 9);
        let page = second.page();
        assert_eq!((page.as_of, page.skip), (Some(as_of), 2));
        let (entries, next) = second.cut(Listed {
            entries: vec!['c'],
            as_of,
        });
        assert_eq!((entries, next), (vec!['c'], None));
    }

    #[test]
    fn a_token_that_says_something_else_is_refused() {
        for end in [
            "1.2.3",
            "1.2.3.-4",
            "1.2.3.4.5",
            "1.2.3.x",
            "1.2.3.99999999999999999999",
        ] {
            let token = page::token("list", end);
            assert!(matches!(paging(&token), Err(Error::PageToken(_))), "{end}");
        }
    }
}
