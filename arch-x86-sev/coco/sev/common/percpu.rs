// SPDX-License-Identifier: GPL-2.0

//! Reads and writes of per-CPU variables of the current CPU, one instruction each.
//!
//! Code that uses them runs with interrupts off or in NMI context, so that it cannot move to
//! another CPU, and partly in noinstr sections, where nothing but inlined code is allowed.

/// Segment prefix of an access to a per-CPU variable.
#[cfg(CONFIG_SMP)]
macro_rules! percpu_prefix {
    () => {
        "gs:"
    };
}

/// Segment prefix of an access to a per-CPU variable.
#[cfg(not(CONFIG_SMP))]
macro_rules! percpu_prefix {
    () => {
        ""
    };
}

/// Reads eight bytes at `offset` in the current CPU's instance of a per-CPU variable.
macro_rules! this_cpu_read {
    ($var:path, $offset:expr) => {{
        let value: u64;

        // SAFETY: `$var` is a per-CPU variable with eight bytes at the offset, so that its address
        // with the segment base is the current CPU's instance.
        unsafe {
            core::arch::asm!(
                concat!("mov {value}, qword ptr ", percpu_prefix!(), "[rip + {var} + {offset}]"),
                value = lateout(reg) value,
                var = sym $var,
                offset = const $offset,
                options(nostack, preserves_flags, readonly),
            );
        }
        value
    }};
    ($var:path) => {
        this_cpu_read!($var, 0)
    };
}

#[allow(unused_macros)]
/// Writes eight bytes at `offset` in the current CPU's instance of a per-CPU variable.
///
/// # Safety
///
/// The value must be valid for the variable.
macro_rules! this_cpu_write {
    ($var:path, $offset:expr, $value:expr) => {{
        let value: u64 = $value;

        core::arch::asm!(
            concat!("mov qword ptr ", percpu_prefix!(), "[rip + {var} + {offset}], {value}"),
            value = in(reg) value,
            var = sym $var,
            offset = const $offset,
            options(nostack, preserves_flags),
        );
    }};
}
