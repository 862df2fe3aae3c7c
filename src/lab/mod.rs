//! Cases: create a network, break it, send traffic, check what the kernels report.

pub mod case;
pub mod catalogue;
pub mod check;
pub mod clock;
pub mod observe;
pub mod report;
pub mod run;
pub mod traffic;
pub mod value;
