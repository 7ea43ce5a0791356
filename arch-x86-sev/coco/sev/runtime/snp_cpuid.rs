// SPDX-License-Identifier: GPL-2.0

//! CPUID of SEV-SNP guests: the C code has a table of what the firmware vouches for, and asks the
//! hypervisor for the rest.

use core::{
    ffi::c_void,
    ptr::from_mut, //
};

use kernel::{
    bindings,
    prelude::*, //
};

use crate::{
    env::KernelEnv,
    proto::{
        exit::cpuid,
        CpuidLeaf,
        SnpCpuid, //
    },
};

/// Called by `snp_cpuid()` for leaves whose values the hypervisor has a part in.
///
/// # Safety
///
/// `env` must point to the `KernelEnv` that was passed to `snp_cpuid()`.
unsafe extern "C" fn ask(env: *mut c_void, c_leaf: *mut bindings::cpuid_leaf) {
    // SAFETY: By the contract of the function.
    let (env, c_leaf) = unsafe { (&mut *env.cast::<KernelEnv<'_>>(), &mut *c_leaf) };
    let mut leaf = from_c(c_leaf);

    if cpuid::ask_hypervisor(env, &mut leaf).is_err() {
        // SAFETY: Does not return.
        unsafe {
            bindings::sev_es_terminate(bindings::SEV_TERM_SET_LINUX, bindings::GHCB_TERM_CPUID_HV)
        };
    }
    *c_leaf = to_c(&leaf);
}

fn from_c(leaf: &bindings::cpuid_leaf) -> CpuidLeaf {
    CpuidLeaf {
        function: leaf.fn_,
        index: leaf.subfn,
        eax: leaf.eax,
        ebx: leaf.ebx,
        ecx: leaf.ecx,
        edx: leaf.edx,
    }
}

fn to_c(leaf: &CpuidLeaf) -> bindings::cpuid_leaf {
    bindings::cpuid_leaf {
        fn_: leaf.function,
        subfn: leaf.index,
        eax: leaf.eax,
        ebx: leaf.ebx,
        ecx: leaf.ecx,
        edx: leaf.edx,
    }
}

/// Looks a leaf up.
pub(crate) fn lookup(env: &mut KernelEnv<'_>, leaf: &mut CpuidLeaf) -> SnpCpuid {
    let mut c_leaf = to_c(leaf);
    // SAFETY: The callback gets the environment, which nothing else uses in the meantime.
    let result = unsafe { bindings::snp_cpuid(Some(ask), from_mut(env).cast(), &mut c_leaf) };

    if result == 0 {
        *leaf = from_c(&c_leaf);
        SnpCpuid::Found
    } else if result == EOPNOTSUPP.to_errno() {
        SnpCpuid::NoTable
    } else {
        SnpCpuid::Failed
    }
}
