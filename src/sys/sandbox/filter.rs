//! From lists of calls to programs for the kernel's filter.

use std::collections::BTreeMap;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule,
};

use super::calls::{Call, Descriptors, Test};

type Rules = BTreeMap<libc::c_long, Vec<SeccompRule>>;

/// Permits these calls to who has these descriptors, and kills the process at any
/// other.
pub(super) fn permit(calls: &[Call], of: Descriptors) -> Result<BpfProgram, BackendError> {
    filter(
        rules(calls, of)?,
        SeccompAction::KillProcess,
        SeccompAction::Allow,
    )
}

/// Answers clone3(2) as a kernel does that has none, and permits all else: the C
/// library then uses clone(2), whose flags a filter can read. Also where a
/// container's filter answers EPERM, which glibc takes for a failure.
pub(super) fn no_clone3() -> Result<BpfProgram, BackendError> {
    let unknown = SeccompAction::Errno(libc::ENOSYS as u32);
    let rules = [(libc::SYS_clone3, Vec::new())].into_iter().collect();
    filter(rules, SeccompAction::Allow, unknown)
}

fn filter(
    rules: Rules,
    otherwise: SeccompAction,
    listed: SeccompAction,
) -> Result<BpfProgram, BackendError> {
    let arch = std::env::consts::ARCH.try_into()?;
    SeccompFilter::new(rules, otherwise, listed, arch)?.try_into()
}

/// A call that is listed twice is permitted by either; one without a test always,
/// which is how seccompiler takes an empty list.
fn rules(calls: &[Call], of: Descriptors) -> Result<Rules, BackendError> {
    let mut rules = Rules::new();
    for call in calls {
        if call.tests.is_empty() {
            rules.insert(call.number, Vec::new());
        } else if rules.get(&call.number).is_none_or(|old| !old.is_empty()) {
            let more = alternatives(call.tests, of)?;
            rules.entry(call.number).or_default().extend(more);
        }
    }
    Ok(rules)
}

/// One rule for each way in which all tests hold.
fn alternatives(tests: &[(u8, Test)], of: Descriptors) -> Result<Vec<SeccompRule>, BackendError> {
    let mut ways: Vec<Vec<SeccompCondition>> = vec![Vec::new()];
    for &(argument, test) in tests {
        let mut longer = Vec::new();
        for way in &ways {
            for (operator, value) in comparisons(test, of) {
                let condition = SeccompCondition::new(argument, width(test), operator, value)?;
                longer.push(way.iter().cloned().chain([condition]).collect());
            }
        }
        ways = longer;
    }
    ways.into_iter().map(SeccompRule::new).collect()
}

/// The kernel takes a descriptor's lower half and no more.
fn width(test: Test) -> SeccompCmpArgLen {
    match test {
        Test::Born | Test::Came | Test::Null => SeccompCmpArgLen::Dword,
        Test::Among(_) | Test::Has(_) | Test::Lacks(_) => SeccompCmpArgLen::Qword,
    }
}

fn comparisons(test: Test, of: Descriptors) -> Vec<(SeccompCmpOp, u64)> {
    match test {
        Test::Born => vec![(SeccompCmpOp::Lt, of.born_below.into())],
        Test::Came => vec![(SeccompCmpOp::Ge, of.born_below.into())],
        Test::Null => vec![(SeccompCmpOp::Eq, of.null.into())],
        Test::Among(values) => values.iter().map(|&v| (SeccompCmpOp::Eq, v)).collect(),
        Test::Has(bits) => vec![(SeccompCmpOp::MaskedEq(bits), bits)],
        Test::Lacks(bits) => vec![(SeccompCmpOp::MaskedEq(bits), 0)],
    }
}
