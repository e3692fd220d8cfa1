"""The experiments of the H-MGDM paper, one script a data set."""
