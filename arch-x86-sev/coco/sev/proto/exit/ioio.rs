// SPDX-License-Identifier: GPL-2.0

//! IN, OUT, INS and OUTS.

use super::{
    super::{
        env::Env,
        exit_code::ExitCode,
        ghcb::{
            Field,
            Request,
            SHARED_BUFFER_OFFSET, //
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
    address,
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
/// Hardware did this before it raised #VC, but the hypervisor may have changed the instruction's
/// port in between, by way of another thread of the same process.
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
#[inline]
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
#[inline]
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
        info,
    };
    let done = match direction {
        Direction::In => transfer.input(env, count)?,
        Direction::Out => transfer.output(env, count)?,
    };

    Ok(strings.complete(env, done))
}

/// A string transfer between a port and memory.
struct Transfer {
    code: CodeSize,
    strings: Strings,
    segment: Segment,
    width: Width,
    info: u64,
}

impl Transfer {
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
            let distance = count.wrapping_sub(1).wrapping_shl(self.width.shift());
            let lowest = if self.strings.backwards {
                offset.wrapping_sub(distance)
            } else {
                offset
            };
            let len = distance.wrapping_add(self.width.bytes());

            match address::linear(env, self.code, self.segment, lowest, len, access) {
                Ok(address) => return Ok((address, count)),
                Err(error) if count == 1 => return Err(error),
                // The end of the segment or of an address range is near: go there step by step.
                Err(_) => count = 1,
            }
        }
    }

    /// Performs the exit. The buffer holds `count` elements in the order of the iterations.
    #[inline(always)]
    fn exit<E: Env + ?Sized>(&self, env: &mut E, count: u64) -> Result {
        let ghcb = env.ghcb();
        let scratch = env.ghcb_gpa().wrapping_add(SHARED_BUFFER_OFFSET);

        Request::new(ghcb).set(Field::SCRATCH, scratch).call(
            env,
            ExitCode::Ioio,
            self.info,
            count,
        )?;
        Ok(())
    }

    /// OUTS. Elements that can be read before a fault are written to the port; the fault comes when
    /// the instruction continues.
    #[inline(always)]
    fn output<E: Env + ?Sized>(&self, env: &mut E, count: u64) -> Result<u64> {
        let offset = self.strings.offset(env.regs(), Gpr::RSI);
        let (address, count) = self.area(env, offset, count, Access::Read)?;

        self.readable(env, address, count)?;

        let shift = self.width.shift();
        let done = if self.strings.backwards {
            self.gather(env, address, count)?
        } else {
            let len = count.wrapping_shl(shift) as usize;

            self.completed(env.read_to_buffer(address, 0, len, self.width), count)?
        };

        self.exit(env, done)?;
        self.strings.advance(env.regs_mut(), Gpr::RSI, done);
        Ok(done)
    }

    /// The whole elements of a bulk copy that moved some bytes and then ended with a result; its
    /// error if there is none.
    #[inline(always)]
    fn completed(&self, (bytes, result): (usize, Result), count: u64) -> Result<u64> {
        let elements = (bytes as u64) >> self.width.shift();

        if elements == 0 {
            result?;
        }
        Ok(if elements < count { elements } else { count })
    }

    /// Refuses the elements at `lowest` if any of them is on a device.
    #[inline(always)]
    fn readable<E: Env + ?Sized>(&self, env: &mut E, lowest: u64, count: u64) -> Result {
        let len = self.distance(count);
        let first_part = PAGE_SIZE.wrapping_sub(lowest & PAGE_SIZE.wrapping_sub(1));

        // The shared buffer is smaller than a page, so that there are at most two.
        if len <= first_part {
            return env.probe_read(lowest, len);
        }
        env.probe_read(lowest, first_part)?;
        env.probe_read(
            lowest.wrapping_add(first_part),
            len.wrapping_sub(first_part),
        )
    }

    /// Reads elements to the shared buffer from the highest address down.
    #[inline(never)]
    fn gather<E: Env + ?Sized>(&self, env: &mut E, lowest: u64, count: u64) -> Result<u64> {
        let shift = self.width.shift();
        let mut done = 0u64;

        while done < count {
            let index = count.wrapping_sub(1).wrapping_sub(done);

            match env.read(lowest.wrapping_add(index.wrapping_shl(shift)), self.width) {
                Ok(value) => {
                    let ghcb = env.ghcb();

                    ghcb.write_buffer(done.wrapping_shl(shift) as usize, value, self.width);
                }
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
            done = done.wrapping_add(1);
        }
        Ok(done)
    }

    /// INS. The destination is checked before the exit: input that was taken from a device and
    /// cannot be stored would be lost.
    #[inline(always)]
    fn input<E: Env + ?Sized>(&self, env: &mut E, count: u64) -> Result<u64> {
        let offset = self.strings.offset(env.regs(), Gpr::RDI);
        let (address, count) = self.area(env, offset, count, Access::Write)?;
        let (address, count) = self.writable(env, address, count)?;
        let shift = self.width.shift();

        self.exit(env, count)?;

        let done = if self.strings.backwards {
            self.scatter(env, address, count)?
        } else {
            let len = count.wrapping_shl(shift) as usize;

            self.completed(env.write_from_buffer(address, 0, len, self.width), count)?
        };

        self.strings.advance(env.regs_mut(), Gpr::RDI, done);
        Ok(done)
    }

    /// Writes elements of the shared buffer from the highest address down.
    #[inline(never)]
    fn scatter<E: Env + ?Sized>(&self, env: &mut E, lowest: u64, count: u64) -> Result<u64> {
        let shift = self.width.shift();
        let mut done = 0u64;

        while done < count {
            let index = count.wrapping_sub(1).wrapping_sub(done);
            let address = lowest.wrapping_add(index.wrapping_shl(shift));
            let ghcb = env.ghcb();
            let value = ghcb.read_buffer(done.wrapping_shl(shift) as usize, self.width);

            match env.write(address, value, self.width) {
                Ok(()) => {}
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
            done = done.wrapping_add(1);
        }
        Ok(done)
    }

    /// Reduces the elements at `lowest` to those that can be written, in the order of the
    /// iterations. If not even the first can, that is the fault.
    #[inline(never)]
    fn writable<E: Env + ?Sized>(
        &self,
        env: &mut E,
        lowest: u64,
        count: u64,
    ) -> Result<(u64, u64)> {
        let shift = self.width.shift();
        let len = count.wrapping_shl(shift);
        let first_part = PAGE_SIZE.wrapping_sub(lowest & PAGE_SIZE.wrapping_sub(1));

        // The shared buffer is smaller than a page, so that there are at most two.
        let (low, high) = if len <= first_part {
            (env.probe_write(lowest, len), Ok(()))
        } else {
            let rest = len.wrapping_sub(first_part);

            (
                env.probe_write(lowest, first_part),
                env.probe_write(lowest.wrapping_add(first_part), rest),
            )
        };

        // Whole elements below the boundary, and those that begin at it or above.
        let below = first_part >> shift;
        let above = len.wrapping_sub(first_part) >> shift;

        match (low, high) {
            (Ok(()), Ok(())) => Ok((lowest, count)),
            (Ok(()), Err(_)) if !self.strings.backwards && below != 0 => Ok((lowest, below)),
            (Err(_), Ok(())) if self.strings.backwards && len > first_part && above != 0 => Ok((
                lowest.wrapping_add(self.distance(count.wrapping_sub(above))),
                above,
            )),
            (Err(error), _) | (_, Err(error)) if count == 1 => Err(error),
            // The fault is that of the first iteration.
            _ if self.strings.backwards => self.writable(
                env,
                lowest.wrapping_add(self.distance(count.wrapping_sub(1))),
                1,
            ),
            _ => self.writable(env, lowest, 1),
        }
    }

    /// Size of this many elements.
    #[inline(always)]
    const fn distance(&self, count: u64) -> u64 {
        count.wrapping_shl(self.width.shift())
    }
}

/// Size of the smallest page.
const PAGE_SIZE: u64 = 4096;
