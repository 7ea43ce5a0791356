// SPDX-License-Identifier: GPL-2.0
//! Which page each slot of a window holds. A slot is one entry of a page table; who owns the window
//! writes the entries as these types say.
//!
//! A value of zeros is an empty one: they live in a page that starts as such.

/// Bit that marks a slot as taken, within the address of a page.
const TAKEN: u64 = 1;

/// The slot of a page, and what has to be done to use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placed {
    /// It is mapped there.
    Held(usize),
    /// The slot is empty: write the entry. Nothing is cached of an entry that was not present.
    Empty(usize),
    /// The slot holds another page: write the entry and invalidate the translation.
    Other(usize),
}

/// Slots for pages that come and go: each page has one slot that it can be in, so that a look-up is
/// a comparison.
#[derive(Clone, Debug)]
pub struct Cache<const N: usize> {
    pages: [u64; N],
    used: u64,
}

impl<const N: usize> Default for Cache<N> {
    fn default() -> Self {
        Self {
            pages: [0; N],
            used: 0,
        }
    }
}

impl<const N: usize> Cache<N> {
    const FITS: () = assert!(N.is_power_of_two() && N <= 64);

    /// Gives the page that begins at `page` its slot.
    #[inline(always)]
    pub fn place(&mut self, page: u64) -> Placed {
        let () = Self::FITS;
        // Page tables of one guest lie close together, or a power of two apart.
        let slot = ((page >> 12) ^ (page >> 17) ^ (page >> 21)) as usize & (N - 1);
        let held = self.pages[slot];
        if held == page | TAKEN {
            return Placed::Held(slot);
        }
        self.pages[slot] = page | TAKEN;
        self.used |= 1 << slot;
        if held == 0 {
            Placed::Empty(slot)
        } else {
            Placed::Other(slot)
        }
    }

    /// Empties all slots, and calls `each` with those that held a page.
    #[inline(always)]
    pub fn drain(&mut self, mut each: impl FnMut(usize)) {
        let mut used = core::mem::take(&mut self.used);
        while used != 0 {
            let slot = used.trailing_zeros() as usize;
            used &= used - 1;
            self.pages[slot] = 0;
            each(slot);
        }
    }
}

/// There is no slot left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// Slots for the shared pages that an exit names. The first one is the GHCB's, which stays for the
/// next exit; the others are for this exit only.
#[derive(Clone, Debug)]
pub struct Named<const N: usize> {
    pages: [u64; N],
    count: usize,
}

impl<const N: usize> Default for Named<N> {
    fn default() -> Self {
        Self {
            pages: [0; N],
            count: 0,
        }
    }
}

impl<const N: usize> Named<N> {
    /// Names the GHCB.
    pub fn ghcb(&mut self, page: u64) -> Placed {
        let held = core::mem::replace(&mut self.pages[0], page | TAKEN);
        if held == page | TAKEN {
            Placed::Held(0)
        } else if held == 0 {
            Placed::Empty(0)
        } else {
            Placed::Other(0)
        }
    }

    /// Names a further page of this exit.
    pub fn page(&mut self, page: u64) -> Result<Placed, Full> {
        if let Some(slot) = self.find(page) {
            return Ok(Placed::Held(slot));
        }
        let slot = 1 + self.count;
        *self.pages.get_mut(slot).ok_or(Full)? = page | TAKEN;
        self.count += 1;
        Ok(Placed::Empty(slot))
    }

    /// The slot of a page that was named.
    #[inline(always)]
    pub fn find(&self, page: u64) -> Option<usize> {
        // Nearly always the GHCB.
        if self.pages[0] == page | TAKEN {
            return Some(0);
        }
        let others = self.pages.get(1..=self.count)?;
        let found = others.iter().position(|held| *held == page | TAKEN);
        found.map(|index| index + 1)
    }

    /// The exit is over: forgets all pages but the GHCB, and calls `each` with their slots.
    #[inline(always)]
    pub fn end(&mut self, mut each: impl FnMut(usize)) {
        for slot in 1..=core::mem::take(&mut self.count) {
            self.pages[slot] = 0;
            each(slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_stays_where_it_is_until_another_comes() {
        let mut cache = Cache::<32>::default();
        let Placed::Empty(slot) = cache.place(0x5000) else {
            panic!("the cache was not empty");
        };
        assert_eq!(cache.place(0x5000), Placed::Held(slot));
        let other = (1..)
            .map(|n| 0x5000 + n * 0x1000)
            .find(|page| {
                let mut fresh = Cache::<32>::default();
                fresh.place(*page) == Placed::Empty(slot)
            })
            .unwrap();
        assert_eq!(cache.place(other), Placed::Other(slot));
        assert_eq!(cache.place(0x5000), Placed::Other(slot));
    }

    #[test]
    fn page_0_is_a_page() {
        let mut cache = Cache::<32>::default();
        assert!(matches!(cache.place(0), Placed::Empty(_)));
        assert!(matches!(cache.place(0), Placed::Held(_)));
        let mut named = Named::<4>::default();
        assert_eq!(named.find(0), None);
        assert_eq!(named.ghcb(0), Placed::Empty(0));
        assert_eq!(named.find(0), Some(0));
    }

    #[test]
    fn draining_tells_each_slot_once_and_leaves_nothing() {
        let mut cache = Cache::<64>::default();
        let mut slots = std::collections::BTreeSet::new();
        for n in 0..1000 {
            match cache.place(n * 0x3000) {
                Placed::Held(slot) | Placed::Empty(slot) | Placed::Other(slot) => {
                    slots.insert(slot);
                }
            }
        }
        let mut drained = Vec::new();
        cache.drain(|slot| drained.push(slot));
        assert_eq!(drained, slots.into_iter().collect::<Vec<_>>());
        cache.drain(|slot| panic!("slot {slot} was left"));
        for n in 0..1000 {
            assert!(!matches!(cache.clone().place(n * 0x3000), Placed::Held(_)));
        }
    }

    #[test]
    fn the_ghcb_stays_and_the_others_go() {
        let mut named = Named::<4>::default();
        assert_eq!(named.ghcb(0x1000), Placed::Empty(0));
        assert_eq!(named.ghcb(0x1000), Placed::Held(0));
        assert_eq!(named.page(0x1000), Ok(Placed::Held(0)));
        assert_eq!(named.page(0x2000), Ok(Placed::Empty(1)));
        assert_eq!(named.page(0x2000), Ok(Placed::Held(1)));
        assert_eq!(named.find(0x2000), Some(1));
        let mut ended = Vec::new();
        named.end(|slot| ended.push(slot));
        assert_eq!(ended, [1]);
        assert_eq!((named.find(0x2000), named.find(0x1000)), (None, Some(0)));
        assert_eq!(named.ghcb(0x3000), Placed::Other(0));
        assert_eq!(named.find(0x1000), None);
    }

    #[test]
    fn no_more_pages_than_slots() {
        let mut named = Named::<4>::default();
        named.ghcb(0x1000);
        for n in 2..5 {
            assert_eq!(named.page(n << 12), Ok(Placed::Empty(n as usize - 1)));
        }
        assert_eq!(named.page(0x9000), Err(Full));
        assert_eq!(named.find(0x9000), None);
        assert_eq!(named.page(0x4000), Ok(Placed::Held(3)), "it has a slot");
    }
}
