// SPDX-License-Identifier: GPL-2.0
/*
 * sev_es_mmio - executes instructions on devices that an SEV-ES guest has to emulate, and the same
 * ones on memory with the same contents: registers, flags and contents have to be the same after.
 *
 *	cat /sys/module/sev_es_mmio/parameters/names	forms of instructions, a line each
 *	echo NAME >/sys/module/sev_es_mmio/parameters/run
 *	echo NAME >/sys/module/sev_es_mmio/parameters/step	the same with single steps
 *
 * The write fails with EIO if there is a difference, which is in the kernel's log then. With single
 * steps each instruction has to trap, in a repeated one each iteration, where it does on memory.
 * Forms that are marked "further" are emulated by the Rust implementation only; with the C
 * implementation they end the guest. "locked" are those with a LOCK prefix.
 */
#include <linux/io.h>
#include <linux/irqflags.h>
#include <linux/kdebug.h>
#include <linux/module.h>
#include <linux/moduleparam.h>

#include <asm/debugreg.h>
#include <asm/msr.h>
#include <asm/ptrace.h>

#define HPET_BASE	0xfed00000
#define HPET_TIMER2	0x148	/* comparator of a timer that is off: 64 bits that can be written */
/*
 * The I/O APIC's index, of which 8 bits can be written. The kernel writes it before each use.
 */
#define IOAPIC_BASE	0xfec00000
#define NEGATIVE	0x86

#define ARITHMETIC	0x8c5	/* OF, SF, ZF, PF, CF */
#define CARRY		0x001

struct regs {
	unsigned long ax, bx, cx, dx, si, di, flags;
};

struct form {
	const char *name;
	void (*run)(struct regs *regs);
	enum { HPET, INDEX } device;
	/* Flags that the instruction defines. */
	unsigned int flags;
	/*
	 * The register that points to the device; for MOVS the other one points to memory. BOTH: to
	 * the device, RDI behind the first 4 bytes. GS: RDI is an offset in that segment.
	 */
	enum { DI, SI, BOTH, GS } pointer;
	/* Not emulated by the C implementation. */
	bool further;
	/* Has a LOCK prefix. QEMU without KVM loses its flags on a device in single steps. */
	bool locked;
};

#define FORM(name, insn)						\
static noinline void run_##name(struct regs *regs)			\
{									\
	asm volatile("push %[flags]\n\t"				\
		     "popf\n\t"						\
		     insn "\n\t"					\
		     "pushf\n\t"					\
		     "pop %[flags]\n\t"					\
		     /* No more traps, and interrupts are off as before. */	\
		     "push $2\n\t"						\
		     "popf"						\
		     : "+a" (regs->ax), "+b" (regs->bx), "+c" (regs->cx), "+d" (regs->dx),	\
		       "+S" (regs->si), "+D" (regs->di), [flags] "+r" (regs->flags)		\
		     : : "memory", "cc");				\
}

FORM(mov_load_32, "movl (%%rdi), %%eax")
FORM(mov_load_64, "movq (%%rdi), %%rax")
FORM(mov_load_16, "movw (%%rdi), %%ax")
FORM(mov_load_8, "movb (%%rdi), %%cl")
FORM(mov_load_ah, "movb (%%rdi), %%ah")
FORM(mov_load_bh, "movb (%%rdi), %%bh")
FORM(movzx_8_32, "movzbl (%%rdi), %%eax")
FORM(movzx_16_32, "movzwl (%%rdi), %%edx")
FORM(movzx_8_16, "movzbw (%%rdi), %%cx")
FORM(movzx_16_64, "movzwq (%%rdi), %%rbx")
FORM(movsx_8_32, "movsbl (%%rdi), %%eax")
FORM(movsx_16_32, "movswl (%%rdi), %%edx")
FORM(movsx_8_16, "movsbw (%%rdi), %%cx")
FORM(movsx_16_64, "movswq (%%rdi), %%rbx")
FORM(movsxd, "movslq (%%rdi), %%rax")
FORM(mov_store_32, "movl %%eax, (%%rdi)")
FORM(mov_store_64, "movq %%rax, (%%rdi)")
FORM(mov_store_8, "movb %%cl, (%%rdi)")
FORM(mov_store_ah, "movb %%ah, (%%rdi)")
FORM(mov_store_dh, "movb %%dh, (%%rdi)")
FORM(mov_imm_8, "movb $0x5a, (%%rdi)")
FORM(mov_imm_32, "movl $0x9abcdef0, (%%rdi)")
FORM(mov_imm_64, "movq $-0x12345678, (%%rdi)")
FORM(movnti_32, "movntil %%eax, (%%rdi)")
FORM(movnti_64, "movntiq %%rax, (%%rdi)")
FORM(add, "addl %%eax, (%%rdi)")
FORM(add_imm, "addq $-2, (%%rdi)")
FORM(adc, "stc\n\tadcl %%ecx, (%%rdi)")
FORM(sub, "subq %%rdx, (%%rdi)")
FORM(and, "andl $0xf0f0f0f0, (%%rdi)")
FORM(or, "orl %%edx, (%%rdi)")
FORM(or_8, "orb %%ah, (%%rdi)")
FORM(xor, "xorq %%rcx, (%%rdi)")
FORM(add_to_register, "addl (%%rdi), %%eax")
FORM(cmp, "cmpl %%eax, (%%rdi)")
FORM(cmp_imm, "cmpw $0x1234, (%%rdi)")
FORM(test, "testl %%edx, (%%rdi)")
FORM(inc, "incl (%%rdi)")
FORM(neg, "negq (%%rdi)")
FORM(not, "notl (%%rdi)")
FORM(bt, "btl $7, (%%rdi)")
FORM(bts, "lock btsl $4, (%%rdi)")
FORM(btr, "btrq %%rbx, (%%rdi)")
FORM(btc, "btcl %%ebx, (%%rdi)")
FORM(xchg, "xchgl %%eax, (%%rdi)")
FORM(xadd, "lock xaddl %%eax, (%%rdi)")
FORM(cmpxchg_other, "lock cmpxchgl %%ecx, (%%rdi)")
FORM(cmpxchg_same, "movl (%%rdi), %%eax\n\tcmpxchgl %%ecx, (%%rdi)")
FORM(movs_from, "movsl")
FORM(movs_to, "movsq")
FORM(movs_rep, "movl $2, %%ecx\n\trep movsl")
FORM(movs_down, "std\n\tmovl $1, %%ecx\n\trep movsl\n\tcld")
FORM(movs_both, "movsl")
FORM(mov_load_gs, "movl %%gs:(%%rdi), %%eax")
FORM(mov_store_gs, "movb %%dl, %%gs:(%%rdi)")
FORM(xor_gs, "xorl %%ecx, %%gs:(%%rdi)")
FORM(stos, "stosl")
FORM(stos_rep, "movl $2, %%ecx\n\trep stosl")
FORM(lods, "lodsl")
FORM(cmps, "cmpsl")
FORM(cmps_rep, "movl $2, %%ecx\n\trepne cmpsl")
FORM(cmps_equal, "movq (%%rsi), %%rax\n\tmovq %%rax, (%%rdi)\n\tmovl $2, %%ecx\n\trepe cmpsl")
FORM(scas, "scasw")
FORM(scas_rep, "movl $2, %%ecx\n\trepe scasl")
FORM(scas_found, "movl 4(%%rdi), %%eax\n\tmovl $9, %%ecx\n\trepne scasl")

#define BASIC(name, device, ...)	{ #name, run_##name, device, ARITHMETIC, ##__VA_ARGS__ }
#define FURTHER(name, device, ...)	\
	{ #name, run_##name, device, ARITHMETIC, .further = true, ##__VA_ARGS__ }
#define BIT_FORM(name, ...)	\
	{ #name, run_##name, HPET, CARRY, .further = true, ##__VA_ARGS__ }

static const struct form forms[] = {
	BASIC(mov_load_32, HPET),
	BASIC(mov_load_64, HPET),
	BASIC(mov_load_16, INDEX),
	BASIC(mov_load_8, INDEX),
	/* The C implementation takes AH for RSP. */
	FURTHER(mov_load_ah, INDEX),
	BASIC(mov_load_bh, INDEX),
	BASIC(movzx_8_32, INDEX),
	BASIC(movzx_16_32, INDEX),
	BASIC(movzx_8_16, INDEX),
	BASIC(movzx_16_64, INDEX),
	BASIC(movsx_8_32, INDEX),
	BASIC(movsx_16_32, INDEX),
	BASIC(movsx_8_16, INDEX),
	BASIC(movsx_16_64, INDEX),
	FURTHER(movsxd, HPET),
	BASIC(mov_store_32, HPET),
	BASIC(mov_store_64, HPET),
	BASIC(mov_store_8, INDEX),
	BASIC(mov_store_ah, INDEX),
	BASIC(mov_store_dh, INDEX),
	BASIC(mov_imm_8, INDEX),
	BASIC(mov_imm_32, HPET),
	BASIC(mov_imm_64, HPET),
	FURTHER(movnti_32, HPET),
	FURTHER(movnti_64, HPET),
	FURTHER(add, HPET),
	FURTHER(add_imm, HPET),
	FURTHER(adc, HPET),
	FURTHER(sub, HPET),
	FURTHER(and, HPET),
	FURTHER(or, HPET),
	FURTHER(or_8, INDEX),
	FURTHER(xor, HPET),
	FURTHER(add_to_register, HPET),
	FURTHER(cmp, HPET),
	FURTHER(cmp_imm, INDEX),
	FURTHER(test, HPET),
	FURTHER(inc, HPET),
	FURTHER(neg, HPET),
	FURTHER(not, HPET),
	BIT_FORM(bt),
	BIT_FORM(bts, .locked = true),
	BIT_FORM(btr),
	BIT_FORM(btc),
	FURTHER(xchg, HPET),
	FURTHER(xadd, HPET, .locked = true),
	FURTHER(cmpxchg_other, HPET, .locked = true),
	FURTHER(cmpxchg_same, HPET),
	BASIC(movs_from, HPET, .pointer = SI),
	BASIC(movs_to, HPET),
	BASIC(movs_rep, HPET, .pointer = SI),
	BASIC(movs_down, HPET, .pointer = SI),
	BASIC(movs_both, HPET, .pointer = BOTH),
	BASIC(mov_load_gs, HPET, .pointer = GS),
	BASIC(mov_store_gs, INDEX, .pointer = GS),
	FURTHER(xor_gs, HPET, .pointer = GS),
	FURTHER(stos, HPET),
	FURTHER(stos_rep, HPET),
	FURTHER(lods, HPET, .pointer = SI),
	FURTHER(cmps, HPET),
	FURTHER(cmps_rep, HPET, .pointer = SI),
	FURTHER(cmps_equal, HPET, .pointer = SI),
	FURTHER(scas, INDEX),
	FURTHER(scas_rep, HPET),
	FURTHER(scas_found, HPET),
};

static u8 __iomem *hpet, *ioapic;

static u8 __iomem *device_of(const struct form *form)
{
	return form->device == HPET ? hpet + HPET_TIMER2 : ioapic;
}

/* Both by the accesses that every implementation can do. */
static void set(const struct form *form)
{
	u8 __iomem *device = device_of(form);

	if (form->device == HPET) {
		writel(0x8899aabb, device);
		writel(0x44556677, device + 4);
	} else {
		writel(NEGATIVE, device);
	}
}

static u64 contents(const struct form *form)
{
	u8 __iomem *device = device_of(form);

	if (form->device == HPET)
		return readl(device) | (u64)readl(device + 4) << 32;
	return readl(device);
}

/* Where the processor stopped, and how often in a row. */
struct stops {
	unsigned int number;
	struct {
		unsigned long ip;
		unsigned int times;
	} at[16];
};

static struct stops *stepping;

static int on_debug(struct notifier_block *block, unsigned long event, void *data)
{
	struct die_args *args = data;
	unsigned long *dr6 = (unsigned long *)args->err;
	struct stops *stops = stepping;
	unsigned long ip = args->regs->ip;

	if (event != DIE_DEBUG || !stops || user_mode(args->regs) || !(*dr6 & DR_STEP))
		return NOTIFY_DONE;
	*dr6 &= ~DR_STEP;
	if (stops->number && stops->at[stops->number - 1].ip == ip) {
		stops->at[stops->number - 1].times++;
	} else if (stops->number < ARRAY_SIZE(stops->at)) {
		stops->at[stops->number].ip = ip;
		stops->at[stops->number++].times = 1;
	}
	return NOTIFY_STOP;
}

static struct notifier_block debug_notifier = { .notifier_call = on_debug };

/*
 * QEMU without KVM stops at a repeated instruction once more, when there is nothing left to do. The
 * emulation must not. The instruction before that stops there as well.
 */
static bool same_stops(const struct stops *device, const struct stops *memory)
{
	unsigned int i, extra, allowed;

	if (device->number != memory->number)
		return false;
	for (i = 0; i < device->number; i++) {
		extra = memory->at[i].times - device->at[i].times;
		allowed = memory->at[i].times > 1 ? 1 : 0;
		if (device->at[i].ip != memory->at[i].ip || extra > allowed)
			return false;
	}
	return true;
}

static void log_stops(const char *name, const char *what, const struct stops *stops)
{
	unsigned int i;

	for (i = 0; i < stops->number; i++)
		pr_err("%s: %s: stopped %u times at %pS\n", name, what, stops->at[i].times,
		       (void *)stops->at[i].ip);
}

static void run_on(const struct form *form, void *at, struct regs *regs, u64 *other,
		   struct stops *stops)
{
	unsigned long flags, base = 0;
	void *si = other, *di = other;

	*regs = (struct regs) {
		.ax = 0xa1a2a3a4a5a6a7a8, .bx = 27, .cx = 0xc1c2c3c4c5c6c7c8,
		.dx = 0xd1d2d3d4d5d6d7d8, .flags = 0x2 | (stops ? X86_EFLAGS_TF : 0),
	};
	*other = 0x0123456789abcdef;
	/* The segment is this CPU's. */
	local_irq_save(flags);
	switch (form->pointer) {
	case SI:
		si = at;
		break;
	case BOTH:
		si = at;
		di = at + 4;
		break;
	case GS:
		rdmsrq(MSR_GS_BASE, base);
		di = at;
		break;
	default:
		di = at;
	}
	regs->di = (unsigned long)di - base;
	regs->si = (unsigned long)si;
	WRITE_ONCE(stepping, stops);
	form->run(regs);
	WRITE_ONCE(stepping, NULL);
	local_irq_restore(flags);
	regs->di -= (unsigned long)di - base;
	regs->si -= (unsigned long)si;
	regs->flags &= form->flags;
}

static int check(const struct form *form, bool step)
{
	struct stops stops_by_device = {}, stops_by_memory = {};
	struct regs by_device, by_memory;
	u64 memory, other_by_device, other_by_memory, after;

	set(form);
	memory = contents(form);
	/* A device that is not there proves nothing. */
	if ((u8)memory != (form->device == HPET ? 0xbb : NEGATIVE)) {
		pr_err("%s: the device holds %#llx\n", form->name, memory);
		return -ENODEV;
	}
	run_on(form, &memory, &by_memory, &other_by_memory, step ? &stops_by_memory : NULL);
	run_on(form, (void __force *)device_of(form), &by_device, &other_by_device,
	       step ? &stops_by_device : NULL);
	after = contents(form);
	if (step && (!stops_by_memory.number ||
		     !same_stops(&stops_by_device, &stops_by_memory))) {
		log_stops(form->name, "device", &stops_by_device);
		log_stops(form->name, "memory", &stops_by_memory);
		return -EIO;
	}
	if (!memcmp(&by_device, &by_memory, sizeof(by_memory)) && after == memory &&
	    other_by_device == other_by_memory)
		return 0;
	pr_err("%s: device holds %#llx, memory %#llx; other memory %#llx, %#llx\n", form->name,
	       after, memory, other_by_device, other_by_memory);
	pr_err("%s: ax %#lx %#lx bx %#lx %#lx cx %#lx %#lx dx %#lx %#lx\n", form->name,
	       by_device.ax, by_memory.ax, by_device.bx, by_memory.bx, by_device.cx,
	       by_memory.cx, by_device.dx, by_memory.dx);
	pr_err("%s: si %#lx %#lx di %#lx %#lx flags %#lx %#lx\n", form->name, by_device.si,
	       by_memory.si, by_device.di, by_memory.di, by_device.flags, by_memory.flags);
	return -EIO;
}

static int check_set(const char *text, bool step)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(forms); i++) {
		if (sysfs_streq(text, forms[i].name))
			return check(&forms[i], step);
	}
	return -ENOENT;
}

static int run_set(const char *text, const struct kernel_param *kp)
{
	return check_set(text, false);
}

static const struct kernel_param_ops run_ops = { .set = run_set };
module_param_cb(run, &run_ops, NULL, 0200);

static int step_set(const char *text, const struct kernel_param *kp)
{
	return check_set(text, true);
}

static const struct kernel_param_ops step_ops = { .set = step_set };
module_param_cb(step, &step_ops, NULL, 0200);

static int names_get(char *buffer, const struct kernel_param *kp)
{
	int i, len = 0;

	for (i = 0; i < ARRAY_SIZE(forms); i++)
		len += sysfs_emit_at(buffer, len, "%s %s%s\n", forms[i].name,
				     forms[i].further ? "further" : "basic",
				     forms[i].locked ? "-locked" : "");
	return len;
}

static const struct kernel_param_ops names_ops = { .get = names_get };
module_param_cb(names, &names_ops, NULL, 0444);

static int __init sev_es_mmio_init(void)
{
	int error = -ENOMEM;

	hpet = ioremap(HPET_BASE, PAGE_SIZE);
	ioapic = ioremap(IOAPIC_BASE, PAGE_SIZE);
	if (hpet && ioapic)
		error = register_die_notifier(&debug_notifier);
	if (!error)
		return 0;
	if (ioapic)
		iounmap(ioapic);
	if (hpet)
		iounmap(hpet);
	return error;
}

static void __exit sev_es_mmio_exit(void)
{
	unregister_die_notifier(&debug_notifier);
	iounmap(ioapic);
	iounmap(hpet);
}

module_init(sev_es_mmio_init);
module_exit(sev_es_mmio_exit);
MODULE_DESCRIPTION("Checks instructions on devices in an SEV-ES guest");
MODULE_LICENSE("GPL");
