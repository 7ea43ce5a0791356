// SPDX-License-Identifier: GPL-2.0

//! IN, OUT, INS and OUTS.

use super::{
    super::{
        env::Env,
        exit_code::ExitCode,
        ghcb::{
            Field,
            Request, //
        },
        insn::{
            CodeSize,
            Insn,
            Segment, //
        },
        regs::{
            Gpr,
            Regs, //
        },
        result::{
            Access,
            Fault,
            Progress,
            Result,
            Width, //
        }, //
    },
    address::{
        self,
        PAGE_SIZE, //
    },
    buffer,
    string::Strings, //
};

/// SW_EXITINFO1 of an I/O exit, which is EXITINFO1 of SVM (APM vol. 2, 15.10.2): input.
const IOIO_IN: u64 = 1 << 0;
/// A string instruction.
const IOIO_STRING: u64 = 1 << 2;
/// Repeated.
const IOIO_REP: u64 = 1 << 3;
/// The width of the data in bytes starts at this bit.
const IOIO_WIDTH_SHIFT: u32 = 4;
/// The width of addresses: bit 7 for 16 bits, 8 for 32, 9 for 64.
const IOIO_ADDRESS_SHIFT: u32 = 6;
/// The number of the segment.
const IOIO_SEGMENT_SHIFT: u32 = 10;
/// The port.
const IOIO_PORT_SHIFT: u32 = 16;

/// Direction of an access to a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// From the port.
    In,
    /// To the port.
    Out,
}

impl Direction {
    #[inline(always)]
    const fn bit(self) -> u64 {
        match self {
            Direction::In => IOIO_IN,
            Direction::Out => 0,
        }
    }
}

/// Checks that the interrupted context may access the port.
///
/// Hardware checks this before it raises #VC. But the instruction that is emulated is the one that
/// is in memory now: another thread of the process may have put a port there that hardware did not
/// check, in time or with the help of a hypervisor that delays this one.
#[inline(always)]
fn check_permission<E: Env + ?Sized>(env: &mut E, port: u16, width: Width) -> Result {
    if env.regs().user_mode() && !env.io_permitted(port, width) {
        return Err(Fault::GP.into());
    }
    Ok(())
}

/// SW_EXITINFO1 for an access.
#[inline(always)]
const fn info(direction: Direction, port: u16, width: Width, address_size: Width) -> u64 {
    direction.bit()
        | ((width as u64) << IOIO_WIDTH_SHIFT)
        | ((address_size as u64) << IOIO_ADDRESS_SHIFT)
        | ((port as u64) << IOIO_PORT_SHIFT)
}

/// Emulates IN and OUT.
#[inline(never)]
pub(crate) fn port<E: Env + ?Sized>(
    env: &mut E,
    direction: Direction,
    port: u16,
    width: Width,
    address_size: Width,
) -> Result {
    check_permission(env, port, width)?;

    let mut request = Request::new(env.ghcb());

    if direction == Direction::Out {
        request = request.set(Field::RAX, width.truncate(env.regs().ax));
    }

    let info = info(direction, port, width, address_size);
    let reply = request.call(env, ExitCode::Ioio, info, 0)?;

    if direction == Direction::In {
        let value = reply.require(Field::RAX)?;
        let regs = env.regs_mut();

        regs.ax = Regs::merge(regs.ax, value, width);
    }
    Ok(())
}

/// Emulates INS and OUTS.
///
/// One exit moves as much as the shared buffer holds; then the interrupted code continues, so that
/// interrupts are taken between the parts of a long transfer.
#[inline(never)]
pub(crate) fn string<E: Env + ?Sized>(
    env: &mut E,
    code: CodeSize,
    direction: Direction,
    insn: &Insn,
) -> Result<Progress> {
    let strings = Strings::new(env.regs(), insn);
    let port = env.regs().dx as u16;

    check_permission(env, port, insn.width)?;

    let count = strings.batch((env.buffer_size() as u64) >> insn.width.shift());

    if count == 0 {
        return Ok(strings.complete(env, 0));
    }

    let segment = match direction {
        Direction::In => Segment::Es,
        Direction::Out => insn.segment,
    };
    let mut info = info(direction, port, insn.width, insn.address_size)
        | IOIO_STRING
        | ((segment as u64) << IOIO_SEGMENT_SHIFT);

    if insn.rep {
        info |= IOIO_REP;
    }

    let transfer = Transfer {
        code,
        strings,
        segment,
        width: insn.width,
        direction,
        info,
    };
    let done = transfer.perform(env, count)?;

    Ok(strings.complete(env, done))
}

/// A string transfer between a port and memory.
struct Transfer {
    code: CodeSize,
    strings: Strings,
    segment: Segment,
    width: Width,
    direction: Direction,
    info: u64,
}

impl Transfer {
    /// Moves at most `count` elements; returns how many.
    ///
    /// Memory is checked before the exit: input that was taken from a device and cannot be stored
    /// would be lost. Elements before one that faults are moved; the fault comes when the
    /// instruction continues with it.
    #[inline(always)]
    fn perform<E: Env + ?Sized>(&self, env: &mut E, count: u64) -> Result<u64> {
        let (register, access) = match self.direction {
            Direction::In => (Gpr::RDI, Access::Write),
            Direction::Out => (Gpr::RSI, Access::Read),
        };
        let offset = self.strings.offset(env.regs(), register);
        let (lowest, count) = self.area(env, offset, count, access)?;
        let (lowest, count) = if count == 1 && address::in_page(lowest, self.width) {
            env.probe(lowest, self.width.bytes(), access)?;
            (lowest, count)
        } else {
            self.accessible(env, lowest, count, access)?
        };
        let mut done = count;

        // The exit between the two uses of the buffer that there are.
        if self.direction == Direction::Out {
            done = self.copy(env, lowest, count)?;
        }
        buffer::exit(env, ExitCode::Ioio, self.info, done)?;
        if self.direction == Direction::In {
            done = self.copy(env, lowest, count)?;
        }
        self.strings.advance(env.regs_mut(), register, done);
        Ok(done)
    }

    /// The lowest linear address of the elements from `offset` on and their number: at most
    /// `count`, fewer if the rest is elsewhere.
    #[inline(always)]
    fn area<E: Env + ?Sized>(
        &self,
        env: &mut E,
        offset: u64,
        count: u64,
        access: Access,
    ) -> Result<(u64, u64)> {
        let mut count = self.strings.before_wrap(offset, count);

        loop {
            let distance = self.size(count.wrapping_sub(1));
            let lowest = if self.strings.backwards {
                offset.wrapping_sub(distance)
            } else {
                offset
            };
            let len = distance.wrapping_add(self.width.bytes());

            let address = address::linear(env, self.code, self.segment, lowest, len, access)
                .and_then(|address| {
                    address::check_user(env, address, len, self.width, access)?;
                    Ok(address)
                });

            match address {
                Ok(address) => return Ok((address, count)),
                Err(error) if count == 1 => return Err(error),
                // The end of the segment or of an address range is near: go there step by step.
                Err(_) => count = 1,
            }
        }
    }

    /// Reduces the elements at `lowest` to those that can be accessed, in the order of the
    /// iterations. If not even the first can, that is the fault.
    #[inline(never)]
    fn accessible<E: Env + ?Sized>(
        &self,
        env: &mut E,
        lowest: u64,
        count: u64,
        access: Access,
    ) -> Result<(u64, u64)> {
        let shift = self.width.shift();
        let len = self.size(count);
        let first_part = PAGE_SIZE.wrapping_sub(lowest & PAGE_SIZE.wrapping_sub(1));

        // The shared buffer is smaller than a page, so that there are at most two.
        let low = env.probe(lowest, first_part.min(len), access);
        let high = if len <= first_part {
            Ok(())
        } else {
            env.probe(
                lowest.wrapping_add(first_part),
                len.wrapping_sub(first_part),
                access,
            )
        };

        // Whole elements below the boundary, and those that begin at it or above.
        let below = first_part >> shift;
        let above = len.saturating_sub(first_part) >> shift;

        match (low, high) {
            (Ok(()), Ok(())) => Ok((lowest, count)),
            (Ok(()), Err(_)) if !self.strings.backwards && below != 0 => Ok((lowest, below)),
            (Err(_), Ok(())) if self.strings.backwards && above != 0 => Ok((
                lowest.wrapping_add(self.size(count.wrapping_sub(above))),
                above,
            )),
            (Err(error), _) | (_, Err(error)) if count == 1 => Err(error),
            // The fault is that of the first iteration.
            _ if self.strings.backwards => self.accessible(
                env,
                lowest.wrapping_add(self.size(count.wrapping_sub(1))),
                1,
                access,
            ),
            _ => self.accessible(env, lowest, 1, access),
        }
    }

    /// Copies `count` elements between memory and the shared buffer, which holds them in the order
    /// of the iterations. Returns how many were copied before a fault, which comes back with the
    /// next one; the fault itself if that is the first.
    #[inline(never)]
    fn copy<E: Env + ?Sized>(&self, env: &mut E, lowest: u64, count: u64) -> Result<u64> {
        let len = self.size(count) as usize;
        let (bytes, result) = match self.direction {
            _ if self.strings.backwards => self.copy_backwards(env, lowest, count),
            Direction::Out => env.read_to_buffer(lowest, 0, len, self.width),
            Direction::In => env.write_from_buffer(lowest, 0, len, self.width),
        };
        let elements = (bytes as u64) >> self.width.shift();

        if elements == 0 {
            result?;
        }
        Ok(elements.min(count))
    }

    /// Copies elements from the highest address down. Returns what the bulk copies return.
    #[cold]
    #[inline(never)]
    fn copy_backwards<E: Env + ?Sized>(
        &self,
        env: &mut E,
        lowest: u64,
        count: u64,
    ) -> (usize, Result) {
        let mut done = 0;

        while done < count {
            let index = count.wrapping_sub(1).wrapping_sub(done);
            let address = lowest.wrapping_add(self.size(index));
            let offset = self.size(done) as usize;
            let ghcb = env.ghcb();
            let result = match self.direction {
                Direction::Out => env
                    .read(address, self.width)
                    .map(|value| ghcb.write_buffer(offset, value, self.width)),
                Direction::In => {
                    let value = ghcb.read_buffer(offset, self.width);

                    env.write(address, value, self.width)
                }
            };

            if result.is_err() {
                return (offset, result);
            }
            done = done.wrapping_add(1);
        }
        (self.size(done) as usize, Ok(()))
    }

    /// Size of this many elements.
    #[inline(always)]
    const fn size(&self, count: u64) -> u64 {
        count.wrapping_shl(self.width.shift())
    }
}
