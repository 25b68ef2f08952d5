//! Leads the daemon's every clock_gettime(3), the standard library's too, to
//! src/sys/clock.rs.

fn main() {
    println!("cargo::rerun-if-changed=scripts/build.rs");
    println!("cargo::rustc-link-arg-bin=echod=-Wl,--wrap=clock_gettime");
}
