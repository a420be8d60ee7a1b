"""What people see: results.csv, TensorBoard, pictures, timelines, the terminal."""
