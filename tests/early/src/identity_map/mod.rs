// SPDX-License-Identifier: GPL-2.0

//! Tests of the page tables that the decompressor builds, against a processor that walks them and
//! a model of what should be mapped.

mod cases;
mod memory;
mod model;
mod processor;
mod properties;
