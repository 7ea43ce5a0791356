// SPDX-License-Identifier: GPL-2.0

//! Setup of the GHCBs: the boot GHCB first, and one for each CPU once memory can be allocated.

use core::{
    mem::size_of,
    ptr::{addr_of_mut, NonNull},
};

use kernel::{
    bindings,
    prelude::*, //
};

use crate::{
    cpu,
    data::{self, per_cpu},
    env::boot_cpu_has,
    proto::{
        msr_protocol::{self, MsrExchange},
        Ghcb,
        GhcbPage, //
    },
    vmgexit::vmgexit,
};

const PAGE_SIZE: usize = 1 << bindings::PAGE_SHIFT;
/// DR7 after reset, and after `dr7 = 0`: bit 10 is always set.
const DR7_RESET: usize = 0x400;

fn is_guest() -> bool {
    // SAFETY: Reads what was found out at boot.
    unsafe { bindings::cc_platform_has(bindings::cc_attr_CC_ATTR_GUEST_STATE_ENCRYPT) }
}

/// Whether this is an SEV-SNP guest.
pub(crate) fn is_snp() -> bool {
    // SAFETY: As in `is_guest`.
    unsafe { bindings::cc_platform_has(bindings::cc_attr_CC_ATTR_GUEST_SEV_SNP) }
}

fn terminate(set: u32, reason: u32) -> ! {
    // SAFETY: Does not return.
    unsafe { bindings::sev_es_terminate(set, reason) }
}

/// The MSR protocol, at times when no GHCB is in use: its users leave the MSR changed.
struct GhcbMsr;

impl MsrExchange for GhcbMsr {
    fn exchange(&mut self, request: u64) -> u64 {
        // SAFETY: `msr_protocol` makes valid requests only. No GHCB is in use on this CPU, and no
        // NMI handler can change the MSR before the reply is read: `setup_ghcb()`, where all
        // exchanges come from, runs before the CPU has an IDT whose NMI handler performs exits.
        // Should the MSR be changed nevertheless (by an NMI to a CPU of an SEV-SNP guest that the
        // hypervisor let go on where it went offline), the reply fails the check of its function.
        // The GHCB MSR exists, and is not intercepted.
        unsafe {
            vmgexit(request);
            cpu::rdmsr(bindings::MSR_AMD64_SEV_ES_GHCB)
        }
    }
}

/// Tells the hypervisor where the GHCB is, which SEV-SNP requires before the GHCB is used.
///
/// # Safety
///
/// No GHCB may be in use on this CPU.
#[export]
pub(crate) unsafe extern "C" fn snp_register_ghcb_early(paddr: usize) {
    if msr_protocol::register_ghcb(&mut GhcbMsr, paddr as u64).is_err() {
        terminate(bindings::SEV_TERM_SET_LINUX, bindings::GHCB_TERM_REGISTER);
    }
}

/// Agrees with the hypervisor on a version of the protocol. False if there is none.
///
/// # Safety
///
/// No GHCB may be in use. Called by the boot CPU while it is alone.
#[export]
pub(crate) unsafe extern "C" fn sev_es_negotiate_protocol() -> bool {
    match msr_protocol::negotiate(&mut GhcbMsr) {
        Some(version) => {
            // SAFETY: Nobody else runs.
            unsafe { bindings::ghcb_version = version };
            true
        }
        None => false,
    }
}

/// True if the CPU has what an SEV-ES guest needs: a source of randomness that does not depend on
/// the hypervisor.
///
/// # Safety
///
/// Called after the boot CPU's features are known.
#[export]
#[link_section = ".init.text"]
pub(crate) unsafe extern "C" fn sev_es_check_cpu_features() -> bool {
    boot_cpu_has(bindings::X86_FEATURE_RDRAND)
}

/// Makes the GHCB of a CPU that starts free.
///
/// A CPU of an SEV-SNP guest that was offline starts anew, in the middle of the exit by which it
/// went offline: nothing of that ever returns, nor gives the GHCB back.
///
/// # Safety
///
/// `data` must be this CPU's, and no user of its GHCB may ever go on.
unsafe fn forget_users(data: *mut bindings::sev_es_runtime_data) {
    // SAFETY: By the contract of the function; nothing of C's keeps a pointer into it either.
    unsafe {
        if let Some(page) = NonNull::new(addr_of_mut!((*data).ghcb_page).cast::<GhcbPage>()) {
            Ghcb::new(page).invalidate();
        }
        (*data).backup_ghcb_active = false;
        this_cpu_write!(data::sev_es_ghcb_users, 0, 0);
    }
}

/// Sets up the GHCB that a CPU starts with.
///
/// # Safety
///
/// Called by each CPU when it starts: when its IDT still has the early handlers, or after it was
/// offline, where nested users end before this goes on.
#[export]
pub(crate) unsafe extern "C" fn setup_ghcb() {
    if !is_guest() {
        return;
    }

    // SAFETY: The boot CPU is alone when it sets up the boot GHCB and switches to its own one. The
    // other CPUs only store the same flag again, and register their own GHCB.
    unsafe {
        // If the runtime handler is in use, `sev_es_init_vc_handling()` has set up a GHCB for this
        // CPU.
        if bindings::initial_vc_handler
            == bindings::kernel_exc_vmm_communication as *const () as usize
        {
            if let Some(data) = data::this_cpu() {
                forget_users(data);
                if is_snp() {
                    snp_register_ghcb_early(pa(addr_of_mut!((*data).ghcb_page)));
                }
            }
            (*addr_of_mut!(bindings::sev_cfg)).set_ghcbs_initialized(1);
            return;
        }

        if !sev_es_negotiate_protocol() {
            terminate(
                bindings::SEV_TERM_SET_GEN,
                bindings::GHCB_SEV_ES_PROT_UNSUPPORTED,
            );
        }

        let page = addr_of_mut!(data::BOOT_GHCB_PAGE);

        // The first exception comes before .bss is cleared.
        page.write_bytes(0, 1);
        data::boot_ghcb = page.cast();
        if is_snp() {
            snp_register_ghcb_early(pa(page.cast()));
        }
    }
}

/// Physical address of a page in the kernel's mappings.
fn pa(page: *mut bindings::ghcb) -> usize {
    // SAFETY: Computes an address.
    unsafe { bindings::sev_es_shim_pa_nodebug(page.cast()) }
}

/// Allocates what a CPU's handler needs.
///
/// # Safety
///
/// Called during boot, for possible CPUs.
#[link_section = ".init.text"]
unsafe fn alloc_runtime_data(cpu: u32) -> *mut bindings::sev_es_runtime_data {
    // SAFETY: Memory is only allocated from the boot allocator, and the per-CPU pointers of `cpu`
    // are written before it runs. `panic()` gets C strings.
    unsafe {
        let size = size_of::<bindings::sev_es_runtime_data>();
        let data =
            bindings::sev_es_shim_alloc(size, cpu as i32).cast::<bindings::sev_es_runtime_data>();

        if data.is_null() {
            bindings::panic(c"Can't allocate SEV-ES runtime data".as_char_ptr());
        }
        per_cpu(addr_of_mut!(data::runtime_data), cpu).write(data);

        // Under an SVSM each CPU also has a calling area; that of the boot CPU exists.
        if bindings::snp_vmpl != 0 {
            let caa = if cpu == 0 {
                addr_of_mut!(bindings::boot_svsm_ca_page)
            } else {
                bindings::sev_es_shim_alloc(PAGE_SIZE, cpu as i32).cast::<bindings::svsm_ca>()
            };

            if caa.is_null() {
                bindings::panic(c"Can't allocate SVSM calling area".as_char_ptr());
            }
            per_cpu(addr_of_mut!(bindings::svsm_caa), cpu).write(caa);
            per_cpu(addr_of_mut!(bindings::svsm_caa_pa), cpu).write(pa(caa.cast()) as u64);
        }
        data
    }
}

/// Shares a GHCB with the hypervisor and initialises what is around it.
///
/// # Safety
///
/// `data` must come from `alloc_runtime_data`.
#[link_section = ".init.text"]
unsafe fn init_ghcb(data: *mut bindings::sev_es_runtime_data) {
    // SAFETY: By the contract of the function nobody uses `data` yet. The GHCB is its first page,
    // so that sharing it shares nothing else.
    unsafe {
        let ghcb = addr_of_mut!((*data).ghcb_page);

        if bindings::early_set_memory_decrypted(ghcb as usize, PAGE_SIZE) != 0 {
            bindings::panic(c"Can't map GHCBs unencrypted".as_char_ptr());
        }
        ghcb.write_bytes(0, 1);
        (*data).backup_ghcb_active = false;
        (*data).dr7 = DR7_RESET;
    }
}

/// Prepares the runtime #VC handler for all CPUs. It is in use once the IDT has it.
///
/// # Safety
///
/// Called once during boot.
#[export]
#[link_section = ".init.text"]
pub(crate) unsafe extern "C" fn sev_es_init_vc_handling() {
    if !is_guest() {
        return;
    }

    // SAFETY: The boot CPU is alone, and the C variables are written during boot only.
    unsafe {
        if !sev_es_check_cpu_features() {
            bindings::panic(c"SEV-ES CPU Features missing".as_char_ptr());
        }

        // SEV-SNP needs version 2 of the protocol, which has a word about features.
        if is_snp() {
            bindings::sev_hv_features = bindings::get_hv_features();
            if bindings::sev_hv_features & bindings::GHCB_HV_FT_SNP == 0 {
                terminate(bindings::SEV_TERM_SET_GEN, bindings::GHCB_SNP_UNSUPPORTED);
            }
        }

        for cpu in data::possible_cpus() {
            init_ghcb(alloc_runtime_data(cpu));
        }

        if bindings::snp_vmpl != 0 {
            (*addr_of_mut!(bindings::sev_cfg)).set_use_cas(1);
        }

        crate::ap::setup_play_dead();

        // Other CPUs start with the runtime handler.
        bindings::initial_vc_handler = bindings::kernel_exc_vmm_communication as *const () as usize;

        let version = bindings::ghcb_version;

        pr_info!("#VC handler: Rust (GHCB protocol version {version})\n");
    }
}

/// Maps the GHCBs, and the SVSM calling areas, for EFI runtime services: the firmware uses what it
/// finds in the GHCB MSR. Returns 0, or 1 if that fails.
///
/// # Safety
///
/// `pgd` must be EFI's page table.
#[export]
#[link_section = ".init.text"]
pub(crate) unsafe extern "C" fn sev_es_efi_map_ghcbs_cas(pgd: *mut bindings::pgd_t) -> c_int {
    if !is_guest() {
        return 0;
    }

    let flags = (1 << bindings::_PAGE_BIT_NX) | (1 << bindings::_PAGE_BIT_RW);

    // SAFETY: By the contract of the function. The runtime data of all CPUs was allocated before.
    unsafe {
        let map = |address: usize, flags: usize| {
            let pfn = (address >> bindings::PAGE_SHIFT) as u64;

            bindings::kernel_map_pages_in_pgd(pgd, pfn, address, 1, flags) == 0
        };

        for cpu in data::possible_cpus() {
            let data = per_cpu(addr_of_mut!(data::runtime_data), cpu).read();

            if data.is_null() || !map(pa(addr_of_mut!((*data).ghcb_page)), flags) {
                return 1;
            }
            if bindings::snp_vmpl != 0 {
                let address = per_cpu(addr_of_mut!(bindings::svsm_caa_pa), cpu).read() as usize;
                let encrypted = flags | bindings::sme_me_mask as usize;

                if address == 0 || !map(address, encrypted) {
                    return 1;
                }
            }
        }
    }
    0
}

#[cfg(CONFIG_AMD_SEV_ES_RUST_KUNIT_TEST)]
#[kunit_tests(amd_sev_setup)]
mod tests {
    use super::*;

    /// The entry in EFI's page table that maps an address to itself, and its level.
    fn efi_entry(address: usize) -> Option<(usize, u32)> {
        let mut level = 0;

        // SAFETY: EFI's page table does not change after boot. It covers all of the address space.
        unsafe {
            let pgd = (*addr_of_mut!(bindings::efi_mm)).__bindgen_anon_1.pgd;

            if pgd.is_null() {
                return None;
            }
            let entry = bindings::lookup_address_in_pgd(
                pgd.add(address >> (cpu::linear_bits() - 9)),
                address,
                &mut level,
            );

            assert!(!entry.is_null());
            Some(((*entry).pte as usize, level))
        }
    }

    /// In an SEV-ES guest with EFI each GHCB is mapped to itself, as one shared page.
    #[test]
    fn efi_maps_ghcbs() {
        if !is_guest() {
            return;
        }
        for cpu in data::possible_cpus() {
            // SAFETY: The runtime data of all CPUs was allocated at boot.
            let address = pa(unsafe {
                let data = per_cpu(addr_of_mut!(data::runtime_data), cpu).read();
                addr_of_mut!((*data).ghcb_page)
            });
            let Some((entry, level)) = efi_entry(address) else {
                return;
            };
            let writable = 1 << bindings::_PAGE_BIT_PRESENT | 1 << bindings::_PAGE_BIT_RW;
            // Address bits with the C-bit among them.
            let mapped_to = entry & 0x000f_ffff_ffff_f000;

            assert_eq!(level, 1);
            assert_eq!(mapped_to, address);
            assert_eq!(entry & writable, writable);
            assert_eq!(entry >> bindings::_PAGE_BIT_NX, 1);
        }
    }
}
