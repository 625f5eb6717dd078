//! What frozen features know: a head in seconds, an honest estimate, and the pictures that do not fit.
//!
//! [`Features`] are what a base makes of a dataset, one vector for each picture, computed once. Everything here works
//! on them: [`LinearHead`] fits a classifier's head, [`CrossValidation`] says how good it is on new pictures.

mod advice;
mod calibration;
mod csv;
mod design;
mod doubt;
mod duplicates;
mod estimate;
mod features;
mod fingerprints;
mod folds;
mod gallery;
mod groups;
mod interval;
mod linear_head;
mod logistic;
mod oddities;
mod outliers;
mod page;
mod predictions;
mod product;
#[allow(
    clippy::module_inception,
    reason = "the study is what the folder is for"
)]
mod study;
mod suspects;
mod thumbnail;

pub use calibration::Calibration;
pub use doubt::Doubt;
pub use duplicates::{Duplicate, Duplicates, Place, Split};
pub use estimate::{ClassEstimate, CrossValidation, Estimate, OutOfFold};
pub use features::Features;
pub use fingerprints::{Fingerprints, Unfit};
pub use gallery::{Gallery, Neighbour};
pub use groups::Groups;
pub use interval::Interval;
pub use linear_head::{LinearFit, LinearHead, PenaltyScore};
pub use oddities::Oddities;
pub use outliers::{Outlier, outliers};
pub use study::{CurvePoint, PartReport, Study, StudyOptions};
pub use suspects::{Suspect, Suspects};
