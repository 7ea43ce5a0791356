// SPDX-License-Identifier: GPL-2.0

//! Any sequence of requests leaves tables that the processor walks as the model says.

use proptest::prelude::*;

use super::{
    memory::{
        Ram,
        PAGE, //
    },
    model::{
        Model,
        GIB,
        MIB2, //
    },
    processor::{
        Page,
        Processor, //
    },
};
use crate::paging::{
    Attribute,
    Error,
    IdentityMap,
    Paging, //
};

/// Where the area for tables is, in memory that also holds a page before and after it.
const AREA: u64 = 0x1234_5000;

/// Tables that `startup_32` makes.
const INITIAL: u64 = 6;

/// What the decompressor is started with.
#[derive(Clone, Copy, Debug)]
struct Start {
    five_levels: bool,
    c_bit: u64,
    pages: u64,
    from_startup_32: bool,
}

#[derive(Clone, Copy, Debug)]
enum Request {
    Map(u64, u64),
    Fault(u64),
    Change(u64, Attribute),
}

struct System {
    ram: Ram,
    map: IdentityMap,
    model: Model,
    processor: Processor,
}

/// The tables as `startup_32` makes them, and the one that is put above for five levels.
fn startup_32(ram: &mut Ram, c_bit: u64, five_levels: bool, top: u64) -> u64 {
    for index in 0..INITIAL * 512 {
        ram.store(AREA + index * 8, 0);
    }
    ram.store(AREA, (AREA + PAGE) | 7 | c_bit);
    for table in 0..4 {
        let middle = AREA + PAGE * (2 + table);

        ram.store(AREA + PAGE + table * 8, middle | 7 | c_bit);
        for index in 0..512 {
            let page = table * GIB + index * MIB2;

            ram.store(middle + index * 8, page | 0x183 | c_bit);
        }
    }
    if !five_levels {
        return AREA;
    }

    for index in 0..512 {
        ram.store(top + index * 8, 0);
    }
    // The trampoline's entry; a C-bit is not needed there, but the walker checks for it.
    ram.store(top, AREA | 0x63 | c_bit);
    top
}

impl System {
    fn new(start: Start) -> System {
        let mut ram = Ram::new(AREA - PAGE, start.pages + 2);
        let mut extra = 0;
        let mut current = AREA + start.pages * PAGE;

        // Another one's top table, which has to be left alone.
        ram.store(current, 0x7_0000_0063 | start.c_bit);
        if start.from_startup_32 {
            current = startup_32(&mut ram, start.c_bit, start.five_levels, current);
            extra = usize::from(start.five_levels);
        }

        let paging = Paging {
            five_levels: start.five_levels,
            encryption: start.c_bit,
        };
        let area = (AREA, INITIAL * PAGE, AREA + start.pages * PAGE);
        let map = IdentityMap::new(&mut ram, paging, current, area).unwrap();
        let virtual_end = if start.five_levels { 1 << 52 } else { 1 << 47 };
        let limit = if start.c_bit == 0 {
            virtual_end
        } else {
            virtual_end.min(start.c_bit)
        };
        let mut model = Model::new(
            start.five_levels,
            start.c_bit != 0,
            limit,
            start.pages as usize + extra,
        );

        if start.from_startup_32 {
            for physical in (0..4 * GIB).step_by(MIB2 as usize) {
                model.adopt(Page {
                    size: MIB2,
                    physical,
                    private: start.c_bit != 0,
                    memory_type: 0,
                    writable: true,
                    executable: true,
                    user: false,
                });
            }
        }

        let processor = Processor {
            root: map.root(),
            five_levels: start.five_levels,
            c_bit: start.c_bit,
            // An SEV guest's physical addresses end below the C-bit.
            reserved_from: if start.c_bit == 0 {
                52
            } else {
                start.c_bit.trailing_zeros()
            },
        };

        System {
            ram,
            map,
            model,
            processor,
        }
    }

    fn apply(&mut self, request: Request) -> (Result<bool, Error>, Result<bool, Error>) {
        match request {
            Request::Map(start, end) => (
                self.map.map(&mut self.ram, start, end),
                self.model.map(start, end),
            ),
            Request::Fault(address) => (
                self.map.map_missing(&mut self.ram, address),
                self.model.map_missing(address),
            ),
            Request::Change(address, attribute) => (
                self.map.page(&mut self.ram, address).map(|page| {
                    self.map.change(&mut self.ram, page, attribute);
                    true
                }),
                self.model.change(address, attribute).map(|()| true),
            ),
        }
    }

    fn check(&self) {
        let (pages, tables) = self.processor.everything(&self.ram);

        assert_eq!(pages, self.model.pages());
        assert_eq!(tables.len(), self.model.tables());
        assert_eq!(
            self.map.tables_left() as usize,
            self.model.capacity - self.model.tables()
        );
        for (address, page) in pages {
            assert_eq!(address, page.physical, "no page under another address");
        }
    }
}

fn start() -> impl Strategy<Value = Start> {
    (
        any::<bool>(),
        prop_oneof![
            Just(0u64),
            Just(1 << 47),
            Just(1 << 51),
            (33u32..52).prop_map(|bit| 1 << bit)
        ],
        1u64..33,
        any::<bool>(),
    )
        .prop_map(|(five_levels, c_bit, pages, from_startup_32)| Start {
            five_levels,
            c_bit,
            pages: if from_startup_32 {
                pages.max(INITIAL)
            } else {
                pages
            },
            from_startup_32,
        })
}

/// Addresses near the places where something ends.
fn address() -> impl Strategy<Value = u64> {
    let border = prop_oneof![
        4 => (0u64..4).prop_map(|count| count * GIB),
        2 => (0u64..4).prop_map(|count| count << 39),
        2 => (0u64..4).prop_map(|count| count << 48),
        2 => (32u32..64).prop_map(|bit| 1 << bit),
        1 => Just(!(1u64 << 47) + 1),
        1 => any::<u64>(),
    ];
    let step = prop_oneof![
        Just(0u64),
        0u64..4096,
        (0u64..8 * 512).prop_map(|pages| pages * 4096)
    ];

    (border, step, any::<bool>()).prop_map(|(border, step, below)| {
        if below {
            border.wrapping_sub(step)
        } else {
            border.wrapping_add(step)
        }
    })
}

fn request() -> impl Strategy<Value = Request> {
    let size = prop_oneof![
        0u64..3,
        0..4 * MIB2,
        0..3 * GIB,
        Just(1 << 39),
        Just(1 << 48)
    ];
    let attribute = prop_oneof![
        Just(Attribute::Encrypted),
        Just(Attribute::Decrypted),
        Just(Attribute::NonPresent)
    ];

    prop_oneof![
        3 => (address(), size)
            .prop_map(|(start, size)| Request::Map(start, start.wrapping_add(size))),
        1 => (address(), address()).prop_map(|(start, end)| Request::Map(start, end)),
        4 => address().prop_map(Request::Fault),
        4 => (address(), attribute).prop_map(|(at, attribute)| Request::Change(at, attribute)),
    ]
}

/// A range that the model would take too long to map is one that there are no tables for.
fn is_feasible(request: Request, limit: u64) -> bool {
    match request {
        Request::Map(start, end) => end > limit || end.saturating_sub(start) <= 40 * GIB,
        _ => true,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn tables_are_what_the_model_says(
        start in start(),
        requests in proptest::collection::vec(request(), 1..24),
    ) {
        let mut system = System::new(start);

        system.check();
        for request in requests {
            let (ram, left) = (system.ram.clone(), system.map.tables_left());

            if !is_feasible(request, system.model.limit) {
                let result = system.apply_to_tables(request);

                prop_assert_eq!(result, Err(Error::OutOfTables));
                prop_assert!(system.ram == ram && system.map.tables_left() == left);
                continue;
            }

            let (result, expected) = system.apply(request);

            prop_assert_eq!(result, expected, "{:?}", request);
            if result.is_err() {
                prop_assert!(system.ram == ram, "{:?} is half done", request);
                prop_assert_eq!(system.map.tables_left(), left);
            }
            system.check();
        }
    }

    #[test]
    fn a_fault_is_cured_or_refused(
        start in start(),
        addresses in proptest::collection::vec(address(), 1..40),
    ) {
        let mut system = System::new(start);

        for address in addresses {
            // The processor has its own idea of what an address is if it is not canonical.
            if address >= 1 << 47 && system.map.map_missing(&mut system.ram, address).is_err() {
                continue;
            }

            let before = system.processor.translate(&system.ram, address);
            let result = system.map.map_missing(&mut system.ram, address);
            let after = system.processor.translate(&system.ram, address);

            match result {
                Ok(added) => {
                    prop_assert_eq!(before.is_err(), added);
                    prop_assert_eq!(after.unwrap().physical, address);
                    prop_assert_eq!(after.unwrap().private, start.c_bit != 0);
                }
                Err(_) => prop_assert!(before.is_err() && after.is_err()),
            }
        }
    }
}

impl System {
    fn apply_to_tables(&mut self, request: Request) -> Result<bool, Error> {
        match request {
            Request::Map(start, end) => self.map.map(&mut self.ram, start, end),
            _ => unreachable!(),
        }
    }
}
