pub mod vocab;
pub mod note;
