// SPDX-License-Identifier: GPL-2.0

//! SEV-ES guest support of the running kernel: the #VC handler behind the entry code, the setup of
//! the GHCBs, AP bring-up, and what the SEV-SNP code in C calls.

#[macro_use]
#[path = "common/percpu.rs"]
mod percpu;

#[path = "runtime/ap.rs"]
mod ap;
#[path = "runtime/boot.rs"]
mod boot;
#[path = "runtime/capi.rs"]
mod capi;
#[path = "runtime/cpu.rs"]
mod cpu;
#[path = "runtime/data.rs"]
mod data;
#[path = "runtime/env.rs"]
mod env;
#[path = "runtime/fetch.rs"]
mod fetch;
#[path = "common/guard.rs"]
mod guard;
#[path = "runtime/handler.rs"]
mod handler;
#[cfg(CONFIG_AMD_SEV_ES_RUST_KUNIT_TEST)]
#[path = "runtime/kunit.rs"]
mod kunit;
#[path = "runtime/layout.rs"]
mod layout;
#[path = "runtime/memory.rs"]
mod memory;
#[path = "proto/mod.rs"]
mod proto;
#[path = "runtime/segment.rs"]
mod segment;
#[path = "runtime/setup.rs"]
mod setup;
#[path = "runtime/snp_cpuid.rs"]
mod snp_cpuid;
#[path = "common/verdict.rs"]
mod verdict;
#[path = "common/vmgexit.rs"]
mod vmgexit;

/// Prefix of the messages in the kernel log.
const __LOG_PREFIX: &[u8] = b"SEV-ES\0";
