// SPDX-License-Identifier: GPL-2.0

//! What the fuzz targets run: the protocol core, with the models of its unit tests around it.

#[path = "../../../../arch-x86-sev/coco/sev/proto/mod.rs"]
mod proto;

#[path = "../../src/tests/hypervisor.rs"]
mod hypervisor;
#[path = "../../src/tests/machine.rs"]
mod machine;

mod decoder;
mod exit;
mod input;

pub use self::{decoder::decode_one, exit::handle_exits};
