//! Executions that end before they are done.
//!
//! One transaction may cost more than a round of consensus lasts, so an execution can be stopped
//! between any two expensive steps of the EVM. revm has no such limit: the instructions that loops
//! and expensive work consist of are wrapped, and precompiled contracts, which cannot be stopped
//! once they run, are given no more gas than they can burn in the time that is left.
//!
//! The crate has no clock. Whoever executes says how much time is left ([`TimeLimit`]); what was
//! interrupted leaves nothing behind, and is neither valid nor invalid.

use std::time::Duration;

use revm::{
    Context,
    bytecode::opcode,
    context::{BlockEnv, CfgEnv, Evm as RevmEvm, Journal, TxEnv},
    context_interface::{ContextTr, JournalTr, LocalContextTr, context::ContextError},
    handler::{
        EthFrame, EthPrecompiles, PrecompileProvider, instructions::EthInstructions,
        precompile_output_to_interpreter_result,
    },
    interpreter::{
        CallInputs, InstructionContext, InstructionExecResult, InstructionResult,
        InterpreterResult,
        instructions::{Instruction, instruction_table},
        interpreter::EthInterpreter,
    },
    precompile::u64_to_address,
    primitives::{Address, AddressSet, hardfork::SpecId},
};

use super::database::BlockState;

/// Says how much longer an execution may take.
pub trait TimeLimit {
    /// Time left; zero when the execution is to stop now, `None` when there is no limit. Asked often,
    /// so it must be cheap.
    fn left(&self) -> Option<Duration>;

    /// So much of the time will be needed for the state root.
    fn reserve(&self, _time: Duration) {}
}

/// No limit: what is final, locked or adopted is executed to its end, however long that takes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unlimited;

impl TimeLimit for Unlimited {
    fn left(&self) -> Option<Duration> {
        None
    }
}

/// Work between two looks at the limit, in jumps: some microseconds.
const LOOK_INTERVAL: u32 = 64;
/// What an access of the state, a hash or a copy counts for, in jumps: each can take microseconds.
const HEAVY_WEIGHT: u32 = 8;
/// Gas that the slowest precompiled contract burns in a microsecond: modular exponentiation at its worst
/// input under Prague's prices (11.8 Mgas/s measured).
const MODEXP_GAS_PER_MICROSECOND: u64 = 10;
/// The same for all others (30 Mgas/s measured at the worst input, BLS12-381).
const PRECOMPILE_GAS_PER_MICROSECOND: u64 = 25;

/// The limit of one execution, with the work since it was last looked at.
pub(super) struct Meter<'a> {
    limit: &'a dyn TimeLimit,
    /// Jumps until the next look.
    countdown: u32,
    /// Whether the execution was stopped.
    pub(super) interrupted: bool,
}

impl<'a> Meter<'a> {
    pub(super) fn new(limit: &'a dyn TimeLimit) -> Self {
        Self {
            limit,
            countdown: LOOK_INTERVAL,
            interrupted: false,
        }
    }

    /// Whether the time is over.
    pub(super) fn is_over(&self) -> bool {
        self.limit.left() == Some(Duration::ZERO)
    }

    /// Whether so much time is left.
    pub(super) fn has(&self, time: Duration) -> bool {
        self.limit.left().is_none_or(|left| left >= time)
    }

    pub(super) fn reserve(&self, time: Duration) {
        self.limit.reserve(time);
    }

    /// Begins another transaction.
    pub(super) fn restart(&mut self) {
        self.countdown = LOOK_INTERVAL;
        self.interrupted = false;
    }

    /// Counts work; `true`: stop.
    fn spend(&mut self, weight: u32) -> bool {
        match self.countdown.checked_sub(weight) {
            Some(left) if left > 0 => {
                self.countdown = left;
                false
            }
            _ => {
                self.countdown = LOOK_INTERVAL;
                self.interrupted |= self.is_over();
                self.interrupted
            }
        }
    }

    /// Gas that a precompiled contract can burn in the time that is left.
    fn precompile_gas(&self, address: &Address) -> u64 {
        let per_microsecond = if *address == MODEXP {
            MODEXP_GAS_PER_MICROSECOND
        } else {
            PRECOMPILE_GAS_PER_MICROSECOND
        };
        self.limit.left().map_or(u64::MAX, |left| {
            let microseconds = u64::try_from(left.as_micros()).unwrap_or(u64::MAX);
            microseconds.saturating_mul(per_microsecond)
        })
    }
}

const MODEXP: Address = u64_to_address(5);

pub(super) type EvmContext<'a> =
    Context<BlockEnv, TxEnv, CfgEnv, BlockState<'a>, Journal<BlockState<'a>>, Meter<'a>>;

pub(super) type Evm<'a> = RevmEvm<
    EvmContext<'a>,
    (),
    EthInstructions<EthInterpreter, EvmContext<'a>>,
    LimitedPrecompiles,
    EthFrame<EthInterpreter>,
>;

/// An EVM that stops when the limit of its context says so.
pub(super) fn limited_evm(context: EvmContext<'_>) -> Evm<'_> {
    let spec = context.cfg.spec;
    let mut instructions = EthInstructions::new_mainnet_with_spec(spec);
    // Without a limit there is nothing to look at.
    if context.chain.limit.left().is_some() {
        wrap(&mut instructions);
    }
    RevmEvm::new(context, instructions, LimitedPrecompiles::new(spec))
}

fn wrap<'a>(instructions: &mut EthInstructions<EthInterpreter, EvmContext<'a>>) {
    let table = instructions.instruction_table_mut();
    macro_rules! wrap {
        ($weight:expr => $($op:ident)*) => {
            $(table[usize::from(opcode::$op)] =
                Instruction::new(limited::<{ opcode::$op }, { $weight }>);)*
        };
    }
    // No loop goes on without a jump, and no code is long enough to take long without one, but for
    // what one instruction does.
    wrap!(1 => JUMP JUMPI);
    wrap!(HEAVY_WEIGHT =>
        KECCAK256 EXP BALANCE EXTCODESIZE EXTCODEHASH EXTCODECOPY CALLDATACOPY CODECOPY
        RETURNDATACOPY MCOPY SLOAD SSTORE LOG0 LOG1 LOG2 LOG3 LOG4 SELFDESTRUCT);
    wrap!(LOOK_INTERVAL => CALL CALLCODE DELEGATECALL STATICCALL CREATE CREATE2);
}

/// An instruction that looks at the limit first.
fn limited<'a, const OP: u8, const WEIGHT: u32>(
    context: InstructionContext<'_, EvmContext<'a>, EthInterpreter>,
) -> InstructionExecResult {
    if context.host.chain.spend(WEIGHT) {
        // Without an error in the context revm takes the result for a failing database.
        context.host.error = Err(ContextError::Custom(String::new()));
        return Err(InstructionResult::FatalExternalError);
    }
    const { instruction_table::<EthInterpreter, EvmContext<'a>>()[OP as usize] }.execute(context)
}

/// Ethereum's precompiled contracts. None is begun that cannot end in the time that is left.
pub(super) struct LimitedPrecompiles(EthPrecompiles);

impl LimitedPrecompiles {
    fn new(spec: SpecId) -> Self {
        Self(EthPrecompiles::new(spec))
    }
}

impl<'a> PrecompileProvider<EvmContext<'a>> for LimitedPrecompiles {
    type Output = InterpreterResult;

    fn set_spec(&mut self, spec: SpecId) -> bool {
        PrecompileProvider::<EvmContext<'a>>::set_spec(&mut self.0, spec)
    }

    /// As revm's own, but with a gas limit that the time allows: where that is what it lacks, the
    /// execution is interrupted.
    fn run(
        &mut self,
        context: &mut EvmContext<'a>,
        inputs: &CallInputs,
    ) -> Result<Option<InterpreterResult>, String> {
        let Some(precompile) = self.0.precompiles.get(&inputs.bytecode_address) else {
            return Ok(None);
        };
        let allowed = context.chain.precompile_gas(&inputs.bytecode_address);
        let gas_limit = inputs.gas_limit.min(allowed);
        let output = precompile
            .execute(&inputs.input.as_bytes(context), gas_limit, inputs.reservoir)
            .map_err(|error| error.to_string())?;
        if let Some(reason) = output.halt_reason() {
            if reason.is_oog() && gas_limit < inputs.gas_limit {
                context.chain.interrupted = true;
                return Err(String::new());
            }
            if !reason.is_oog() && context.journal().depth() == 1 {
                let reason = reason.to_string();
                context.local_mut().set_precompile_error_context(reason);
            }
        }
        Ok(Some(precompile_output_to_interpreter_result(
            output,
            inputs.gas_limit,
        )))
    }

    fn warm_addresses(&self) -> &AddressSet {
        self.0.warm_addresses()
    }
}
