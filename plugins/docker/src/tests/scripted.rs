//! What a real engine cannot be made to do at will: lost and late answers, refusals, garbage.
